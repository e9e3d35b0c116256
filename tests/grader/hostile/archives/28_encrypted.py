# expect: refused
# says: encrypted
# note: nobody has the password


def add(archive, notebook):
    archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", notebook)
    archive.infolist()[-1].flag_bits |= 1
