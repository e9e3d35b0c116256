# expect: PARTIAL 28
# cell lora_delta: WRONG
# says: is missing
# note: an answer that was deleted is one that was not given

from grader.notebooks import grade_id, write_notebook


def build(folder, solved, release):
    solved["cells"] = [cell for cell in solved["cells"] if grade_id(cell) != "lora_delta"]
    write_notebook(folder / "lab03_lora.ipynb", solved)
