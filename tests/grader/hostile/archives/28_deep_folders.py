# expect: refused
# note: a thousand folders in each other


def add(archive, notebook):
    archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", notebook)
    archive.writestr("mallory/lab03_lora/" + "a/" * 1000 + "x.py", "")
