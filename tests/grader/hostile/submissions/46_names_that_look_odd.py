# expect: OK 32
# student: "s46.odd@example.invalid"
# student: "s46-O_o.9"
# student: "s46-null"
# note: letters, digits, _ . @ and - are a name

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora.ipynb", solved)
