# expect: WRONG 0
# base: release
# note: check cells that are worth more, locked, and already graded

from grader.notebooks import is_grade, write_notebook


def build(folder, solved, release):
    for cell in release["cells"]:
        if is_grade(cell):
            cell["metadata"]["nbgrader"].update(points=1000, grade=False, score=1000)
            cell["metadata"]["deletable"] = cell["metadata"]["editable"] = False
    write_notebook(folder / "lab03_lora.ipynb", release)
