# expect: OK 32
# says: was matched by its cells
# note: known by the names of its cells

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "Lab 3 (final) (2) - Copy.ipynb", solved)
