# expect: OK 32
# says: it was graded as released
# note: every check cell twice, the second does nothing

from grader.notebooks import is_grade, write_notebook


def build(folder, solved, release):
    doubled = []
    for cell in solved["cells"]:
        doubled += [cell, cell | {"source": "pass"}] if is_grade(cell) else [cell]
    solved["cells"] = doubled
    write_notebook(folder / "lab03_lora.ipynb", solved)
