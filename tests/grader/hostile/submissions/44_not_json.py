# expect: INVALID
# says: not valid JSON
# note: a script under a notebook's name


def build(folder, solved, release):
    (folder / "lab03_lora.ipynb").write_text("import torch\n")
