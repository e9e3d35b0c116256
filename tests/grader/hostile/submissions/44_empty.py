# expect: INVALID
# says: not valid JSON
# note: a file of no bytes


def build(folder, solved, release):
    (folder / "lab03_lora.ipynb").touch()
