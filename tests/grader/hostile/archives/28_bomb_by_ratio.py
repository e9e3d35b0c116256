# expect: refused
# note: small enough for a file and packed a thousand times


def add(archive, notebook):
    archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", b" " * (19 * 2**20) + notebook)
