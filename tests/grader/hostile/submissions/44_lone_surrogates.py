# expect: OK 32 or PARTIAL 28 or INVALID
# cell lora_delta: OK|WRONG
# note: halves of characters, in an answer and in a name

import json

from grader.notebooks import grade_id, source


def build(folder, solved, release):
    for cell in solved["cells"]:
        if grade_id(cell) == "lora_delta":
            cell["source"] = source(cell) + "\n# \ud800 \udfff\n"
            cell["metadata"]["\udc00"] = "\ud83d"
    (folder / "lab03_lora.ipynb").write_text(json.dumps(solved))
