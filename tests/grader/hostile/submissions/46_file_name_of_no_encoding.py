# expect: OK 32 or INVALID
# note: bytes that are no text in any encoding of this machine

import os

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / os.fsdecode(b"\xff\xfe.ipynb"), solved)
