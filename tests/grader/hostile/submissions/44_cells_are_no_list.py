# expect: INVALID
# says: no list
# note: an object where a list should be

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora.ipynb", solved | {"cells": {"0": solved["cells"]}})
