# expect: OK 32 or INVALID
# note: without any right to read; whoever grades as root reads it all the same

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora.ipynb", solved)
    (folder / "lab03_lora.ipynb").chmod(0)
    (folder / "private").mkdir(mode=0)
