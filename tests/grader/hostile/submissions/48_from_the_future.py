# expect: OK 32
# note: by a clock that is wrong by a century

import os

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora.ipynb", solved)
    os.utime(folder, (5_000_000_000, 5_000_000_000))
