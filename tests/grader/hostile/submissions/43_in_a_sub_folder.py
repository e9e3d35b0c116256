# expect: OK 32
# says: was matched by its cells
# note: as archives often come unpacked

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora" / "lab03" / "lab03_lora.ipynb", solved)
