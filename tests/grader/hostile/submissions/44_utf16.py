# expect: INVALID
# says: not valid JSON
# note: saved by an editor in another encoding

import json


def build(folder, solved, release):
    (folder / "lab03_lora.ipynb").write_text(json.dumps(solved), encoding="utf-16")
