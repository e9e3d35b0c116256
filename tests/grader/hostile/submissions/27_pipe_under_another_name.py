# expect: INVALID
# says: there is no notebook
# note: found by looking for a renamed notebook

import os


def build(folder, solved, release):
    os.mkfifo(folder / "renamed.ipynb")
