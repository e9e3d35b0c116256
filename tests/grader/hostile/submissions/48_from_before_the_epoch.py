# expect: OK 32
# note: by a clock that starts in 1970 and goes backwards

import os

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora.ipynb", solved)
    os.utime(folder, (-1_000_000_000, -1_000_000_000))
