# expect: OK 32
# says: it was graded as released
# note: each check cell under the next one's name

from grader.notebooks import grade_id, is_grade, write_notebook


def build(folder, solved, release):
    graded = [cell for cell in solved["cells"] if is_grade(cell)]
    names = [grade_id(cell) for cell in graded]
    for cell, name in zip(graded, names[1:] + names[:1], strict=True):
        cell["metadata"]["nbgrader"]["grade_id"] = name
    write_notebook(folder / "lab03_lora.ipynb", solved)
