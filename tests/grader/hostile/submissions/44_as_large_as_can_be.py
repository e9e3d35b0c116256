# expect: WRONG 0
# cell any: WRONG
# says: more than 200000
# note: just small enough; what is written of it must not be too large for the next command

import json

from grader.notebooks import MAX_NOTEBOOK_BYTES, grade_id, source


def build(folder, solved, release):
    solved["cells"] = [cell for cell in solved["cells"] if grade_id(cell) == "lora_delta"]
    [cell] = solved["cells"]
    cell["source"] = source(cell) + "\n#"
    size = len(json.dumps(solved))
    cell["source"] += "x" * (MAX_NOTEBOOK_BYTES - size)
    (folder / "lab03_lora.ipynb").write_text(json.dumps(solved))
