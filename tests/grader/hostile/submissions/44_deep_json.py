# expect: INVALID
# says: not valid JSON
# note: a hundred thousand lists in each other


def build(folder, solved, release):
    (folder / "lab03_lora.ipynb").write_text("[" * 100_000 + "]" * 100_000)
