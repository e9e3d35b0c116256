# expect: refused
# note: says that it is small and is not


def add(archive, notebook):
    archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", b"#" * 30 * 2**20)
    archive.infolist()[-1].file_size = 10
