# expect: INVALID
# note: the whole folder is a classmate's; nothing is written there either


def build(folder, solved, release):
    folder.rmdir()
    folder.symlink_to("../s00-perfect/lab03_lora")
