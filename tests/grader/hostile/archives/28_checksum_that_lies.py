# expect: refused
# note: content that is not what its checksum says


def add(archive, notebook):
    archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", notebook)
    archive.infolist()[-1].CRC ^= 1
