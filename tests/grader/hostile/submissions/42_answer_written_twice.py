# expect: OK 32
# says: is there more than once
# note: a copied cell keeps its name; of both answers the last counts, as in nbgrader

from grader.notebooks import grade_id, write_notebook


def build(folder, solved, release):
    first = next(cell for cell in solved["cells"] if grade_id(cell) == "lora_delta")
    solved["cells"].insert(0, first | {"source": "raise SystemExit"})
    write_notebook(folder / "lab03_lora.ipynb", solved)
