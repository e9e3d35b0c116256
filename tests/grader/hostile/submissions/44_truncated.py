# expect: INVALID
# says: not valid JSON
# note: ends in the middle, as after a broken upload

import json


def build(folder, solved, release):
    text = json.dumps(solved)
    (folder / "lab03_lora.ipynb").write_text(text[: len(text) // 2])
