# expect: OK 32
# says: it was graded as released
# note: each line of a check cell in a cell of its own, under the same name

from grader.notebooks import is_grade, source, write_notebook


def build(folder, solved, release):
    split = []
    for cell in solved["cells"]:
        lines = source(cell).replace("(", "(\n").splitlines()
        split += [cell | {"source": line} for line in lines] if is_grade(cell) else [cell]
    solved["cells"] = split
    write_notebook(folder / "lab03_lora.ipynb", solved)
