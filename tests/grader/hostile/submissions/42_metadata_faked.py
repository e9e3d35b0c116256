# expect: OK 32
# says: it was graded as released
# note: metadata of the wrong types and with invented fields

from grader.notebooks import is_solution, write_notebook


def build(folder, solved, release):
    wrong = (
        None,
        [],
        "nbgrader",
        0,
        {"nbgrader": None},
        {"nbgrader": [1]},
        {"nbgrader": {"grade": 1}},
    )
    for number, cell in enumerate(solved["cells"]):
        if not is_solution(cell):
            cell["metadata"] = wrong[number % len(wrong)]
    write_notebook(folder / "lab03_lora.ipynb", solved)
