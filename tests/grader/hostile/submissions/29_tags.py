# expect: WRONG 0
# base: release
# note: tags that executors and converters obey on the check cells of an unanswered notebook

from grader.notebooks import is_grade, write_notebook


def build(folder, solved, release):
    for cell in release["cells"]:
        if is_grade(cell):
            cell["metadata"]["tags"] = [
                "skip-execution",
                "raises-exception",
                "remove_cell",
                "parameters",
            ]
    write_notebook(folder / "lab03_lora.ipynb", release)
