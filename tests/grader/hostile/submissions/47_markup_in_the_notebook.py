# expect: OK 32
# note: in outputs, in text, in metadata and in comments of the answers

from grader.notebooks import is_solution, source, write_notebook

EVIL = "<script>alert(1)</script><iframe src='javascript:alert(1)'></iframe>"


def build(folder, solved, release):
    for cell in solved["cells"]:
        if is_solution(cell):
            cell["source"] = source(cell) + f"\n# </pre>{EVIL}\n"
        if cell["cell_type"] == "markdown":
            cell["source"] = EVIL
        else:
            data = {"text/html": EVIL, "image/svg+xml": "<svg onload='alert(1)'/>"}
            shown = {"output_type": "display_data", "data": data, "metadata": {}}
            cell["outputs"] = [shown]
    solved["metadata"]["title"] = EVIL
    write_notebook(folder / "lab03_lora.ipynb", solved)
