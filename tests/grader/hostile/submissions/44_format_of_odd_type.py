# expect: INVALID
# note: says that its format is a very long number

import json


def build(folder, solved, release):
    text = json.dumps(solved).replace('"nbformat": 4', '"nbformat": ' + "4" * 5000)
    (folder / "lab03_lora.ipynb").write_text(text)
