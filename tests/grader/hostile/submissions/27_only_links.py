# expect: INVALID
# says: there is no notebook
# note: there is nothing in the folder but links to other folders with notebooks


def build(folder, solved, release):
    (folder / "mine").symlink_to("../../s00-perfect/lab03_lora")
    (folder / "circle").symlink_to(".")
    (folder / "root").symlink_to("/")
