# expect: INVALID
# says: format 4
# note: of a time to come

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora.ipynb", solved | {"nbformat": 99})
