# expect: INVALID
# says: is a link
# note: what the link points at is in no message and on no page


def build(folder, solved, release):
    (folder / "lab03_lora.ipynb").symlink_to(folder.parents[2] / "tokens.txt")
