# expect: OK 32
# note: a time stamp of the student's own, long before the deadline

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora.ipynb", solved)
    (folder / "timestamp.txt").write_text("1999-01-01 00:00:00 UTC")
