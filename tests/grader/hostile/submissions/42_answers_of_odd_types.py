# expect: PARTIAL 28
# cell lora_delta: WRONG
# note: a source that is no text, cells that are no objects, names that are no names

from grader.notebooks import grade_id, write_notebook


def build(folder, solved, release):
    for cell in solved["cells"]:
        if grade_id(cell) == "lora_delta":
            cell["source"] = {"def": ["lora_delta", 1, None]}
    odd = {"cell_type": 7, "metadata": {"nbgrader": {"grade_id": ["lora_delta"], "solution": 1}}}
    solved["cells"] += [None, 1, "cell", [], {}, odd, {"source": [None, 1, ["x"]]}]
    write_notebook(folder / "lab03_lora.ipynb", solved)
