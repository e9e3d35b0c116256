# expect: refused
# note: a name that ends in another student's folder


def add(archive, notebook):
    archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", notebook)
    archive.writestr("mallory/lab03_lora/../../aa-honest/lab03_lora/lab03_lora.ipynb", b"{}")
