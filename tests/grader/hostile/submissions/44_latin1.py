# expect: INVALID
# says: not valid JSON
# note: bytes that are no UTF-8

import json


def build(folder, solved, release):
    (folder / "lab03_lora.ipynb").write_bytes(json.dumps(solved).encode() + b"\xe9\xff")
