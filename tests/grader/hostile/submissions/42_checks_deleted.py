# expect: OK 32
# says: was deleted; it was graded as released
# note: without its check cells

from grader.notebooks import is_grade, write_notebook


def build(folder, solved, release):
    solved["cells"] = [cell for cell in solved["cells"] if not is_grade(cell)]
    write_notebook(folder / "lab03_lora.ipynb", solved)
