# expect: OK 32
# says: was matched by its cells
# note: as long as a name can be, and not in ASCII

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / ("\u00e9" * 120 + ".ipynb"), solved)
