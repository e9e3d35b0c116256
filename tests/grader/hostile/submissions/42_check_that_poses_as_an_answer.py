# expect: OK 32
# says: it was graded as released
# note: a check cell under an answer's name does not replace the answer

from grader.notebooks import grade_id, write_notebook


def build(folder, solved, release):
    poser = next(cell for cell in solved["cells"] if grade_id(cell) == "check_lora_delta")
    poser["metadata"]["nbgrader"]["grade_id"] = "lora_delta"
    write_notebook(folder / "lab03_lora.ipynb", solved)
