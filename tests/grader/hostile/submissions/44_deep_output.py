# expect: OK 32 or INVALID
# note: deep in what an answer's cell has stored

import json

from grader.notebooks import grade_id


def build(folder, solved, release):
    deep = '{"a":' * 900 + "1" + "}" * 900
    cell = next(cell for cell in solved["cells"] if grade_id(cell) == "lora_delta")
    cell["outputs"] = [{"output_type": "display_data", "data": "HERE", "metadata": {}}]
    (folder / "lab03_lora.ipynb").write_text(json.dumps(solved).replace('"HERE"', deep))
