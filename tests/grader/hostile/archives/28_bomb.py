# expect: refused
# note: two hundred megabytes of zeros in a notebook


def add(archive, notebook):
    archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", bytes(200 * 2**20))
