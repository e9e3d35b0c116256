# expect: PARTIAL 28
# cell lora_delta: WRONG
# note: text that no Python accepts

import json

from grader.notebooks import grade_id


def build(folder, solved, release):
    for cell in solved["cells"]:
        if grade_id(cell) == "lora_delta":
            cell["source"] = "x = '\0'\n"
    (folder / "lab03_lora.ipynb").write_text(json.dumps(solved))
