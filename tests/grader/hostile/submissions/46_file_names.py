# expect: OK 32
# says: was matched by its cells
# note: the notebook's own name is markup, a formula, a path and a terminal's command at once

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "=cmd()<img src=x onerror=alert(1)>\x1b]0;owned\x07\n.ipynb", solved)
    write_notebook(folder / "-rf *; touch x.ipynb", release | {"cells": []})
