# expect: refused
# note: names that climb out on Windows alone


def add(archive, notebook):
    archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", notebook)
    archive.writestr("mallory/lab03_lora/x\\..\\..\\..\\hostile-escape.ipynb", notebook)
    archive.writestr("C:/hostile-escape.ipynb", notebook)
