# expect: INVALID or WRONG 0
# base: release
# note: another lab's notebook under this lab's name has none of its answers

from grader.notebooks import grade_id, write_notebook


def build(folder, solved, release):
    for cell in solved["cells"]:
        if grade_id(cell):
            cell["metadata"]["nbgrader"]["grade_id"] = f"other_{grade_id(cell)}"
    write_notebook(folder / "lab03_lora.ipynb", solved)
