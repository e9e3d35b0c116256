# expect: OK 32 or INVALID
# note: three bytes before the text: all of it can be read

import json


def build(folder, solved, release):
    (folder / "lab03_lora.ipynb").write_text(json.dumps(solved), encoding="utf-8-sig")
