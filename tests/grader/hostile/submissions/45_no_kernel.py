# expect: OK 32
# note: without any metadata of its own

from grader.notebooks import write_notebook


def build(folder, solved, release):
    solved["metadata"] = {}
    write_notebook(folder / "lab03_lora.ipynb", solved)
