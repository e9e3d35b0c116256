# expect: refused
# note: two names that are one file on some systems


def add(archive, notebook):
    archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", notebook)
    archive.writestr("mallory/lab03_lora/LAB03_lora.ipynb", b"{}")
    archive.writestr("mallory/lab03_lora/caf\u00e9.py", "")
    archive.writestr("mallory/lab03_lora/cafe\u0301.py", "")
