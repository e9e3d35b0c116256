# expect: INVALID
# says: regular file
# note: a folder where the notebook should be

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora.ipynb" / "lab03_lora.ipynb", solved)
