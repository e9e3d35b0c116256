# expect: refused
# note: a file that would have to be a folder too


def add(archive, notebook):
    archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", notebook)
    archive.writestr("mallory/lab03_lora/data.py", "")
    archive.writestr("mallory/lab03_lora/data.py/x.py", "")
