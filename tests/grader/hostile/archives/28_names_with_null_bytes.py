# expect: refused
# note: names that end earlier for C than for Python


def add(archive, notebook):
    archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", notebook)
    archive.writestr("mallory/lab03_lora/notes.txt", b"")
    info = archive.infolist()[-1]
    info.filename = info.orig_filename = "mallory/lab03_lora/evil.py\0.txt"
