# expect: PARTIAL 28
# cell lora_delta: WRONG
# says: the cell is not valid Python
# note: a cell that does not compile costs its own exercise only

from grader.notebooks import grade_id, write_notebook


def build(folder, solved, release):
    for cell in solved["cells"]:
        if grade_id(cell) == "lora_delta":
            cell["source"] = "def lora_delta(:\n    return\n"
    write_notebook(folder / "lab03_lora.ipynb", solved)
