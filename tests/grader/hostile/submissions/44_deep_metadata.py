# expect: INVALID or OK 32
# note: deep where nobody looks, in a right answer

import json


def build(folder, solved, release):
    text = json.dumps(solved | {"metadata": "HERE"})
    text = text.replace('"HERE"', '{"a":' * 5_000 + "1" + "}" * 5_000)
    (folder / "lab03_lora.ipynb").write_text(text)
