# expect: OK 32
# note: a folder where the time stamp is written

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora.ipynb", solved)
    (folder / "timestamp.txt" / "x").mkdir(parents=True)
