# expect: OK 32
# says: it was graded as released
# note: all check cells in one, as if they had been merged in JupyterLab

from grader.notebooks import is_grade, source, write_notebook


def build(folder, solved, release):
    graded = [cell for cell in solved["cells"] if is_grade(cell)]
    merged = graded[0] | {"source": "\n".join(source(cell) for cell in graded)}
    solved["cells"] = [cell for cell in solved["cells"] if not is_grade(cell)] + [merged]
    write_notebook(folder / "lab03_lora.ipynb", solved)
