# expect: refused
# note: a name that climbs out of the folder it is unpacked to


def add(archive, notebook):
    archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", notebook)
    archive.writestr("mallory/lab03_lora/../../../../hostile-escape.ipynb", notebook)
