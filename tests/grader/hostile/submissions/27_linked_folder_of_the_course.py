# expect: INVALID
# note: the folder is that of the solved notebook


def build(folder, solved, release):
    folder.rmdir()
    folder.symlink_to("../../solutions/lab03_lora")
