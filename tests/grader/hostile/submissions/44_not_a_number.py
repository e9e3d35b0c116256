# expect: OK 32 or INVALID
# note: NaN and Infinity, which Python reads and JSON does not have

import json


def build(folder, solved, release):
    solved["metadata"] = {"loss": float("nan"), "best": float("inf")}
    solved["cells"][0]["metadata"]["loss"] = float("-inf")
    (folder / "lab03_lora.ipynb").write_text(json.dumps(solved))
