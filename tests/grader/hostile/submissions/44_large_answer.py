# expect: PARTIAL 28
# cell lora_delta: WRONG
# says: more than 200000
# note: a right answer below five megabytes of comments

from grader.notebooks import grade_id, source, write_notebook


def build(folder, solved, release):
    for cell in solved["cells"]:
        if grade_id(cell) == "lora_delta":
            cell["source"] = source(cell) + "\n# and so on" * 400_000
    write_notebook(folder / "lab03_lora.ipynb", solved)
