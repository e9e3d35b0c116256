# expect: INVALID
# says: lab03_lora
# note: another lab's notebook, under its own name

from grader.notebooks import grade_id, write_notebook


def build(folder, solved, release):
    for cell in solved["cells"]:
        if grade_id(cell):
            cell["metadata"]["nbgrader"]["grade_id"] = f"other_{grade_id(cell)}"
    write_notebook(folder / "lab09_generation.ipynb", solved)
