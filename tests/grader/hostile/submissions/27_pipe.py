# expect: INVALID
# says: regular file
# note: whoever opens it to read waits for ever

import os


def build(folder, solved, release):
    os.mkfifo(folder / "lab03_lora.ipynb")
