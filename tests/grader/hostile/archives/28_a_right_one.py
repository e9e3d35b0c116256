# expect: taken
# note: nothing is wrong with it: the notebook, a module and a picture


def add(archive, notebook):
    archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", notebook)
    archive.writestr("mallory/lab03_lora/helpers.py", "x = 1")
    archive.writestr("mallory/lab03_lora/plot.png", b"\x89PNG")
