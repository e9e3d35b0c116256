# expect: OK 32
# note: a right answer with ten megabytes of stored output

from grader.notebooks import write_notebook


def build(folder, solved, release):
    cell = next(cell for cell in solved["cells"] if cell["cell_type"] == "code")
    text = {"output_type": "stream", "name": "stdout", "text": "x" * 10**7}
    cell["outputs"] = [text]
    write_notebook(folder / "lab03_lora.ipynb", solved)
