# expect: INVALID
# says: is a link
# note: a link to a classmate's notebook is not the student's own work


def build(folder, solved, release):
    classmates = "../../s00-perfect/lab03_lora/lab03_lora.ipynb"
    (folder / "lab03_lora.ipynb").symlink_to(classmates)
