# expect: OK 32
# note: from the last to the first

from grader.notebooks import write_notebook


def build(folder, solved, release):
    solved["cells"].reverse()
    write_notebook(folder / "lab03_lora.ipynb", solved)
