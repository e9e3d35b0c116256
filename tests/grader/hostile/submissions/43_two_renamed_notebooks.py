# expect: OK 32
# says: was matched by its cells
# note: the one with more of the lab's cells counts

from grader.notebooks import write_notebook


def build(folder, solved, release):
    few = release | {"cells": release["cells"][:5]}
    write_notebook(folder / "a.ipynb", few)
    write_notebook(folder / "b.ipynb", solved)
    write_notebook(folder / "c.ipynb", few)
