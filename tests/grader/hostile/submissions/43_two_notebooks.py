# expect: OK 32
# note: the one with the lab's own name counts

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora.ipynb", solved)
    write_notebook(folder / "a_first_try.ipynb", release)
