# expect: OK 32
# note: what the time stamp links to is not written to

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora.ipynb", solved)
    (folder / "timestamp.txt").symlink_to(folder.parents[2] / "tokens.txt")
