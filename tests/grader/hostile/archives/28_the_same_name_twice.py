# expect: refused
# note: which of both would be unpacked depends on who unpacks

import warnings


def add(archive, notebook):
    archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", notebook)
    with warnings.catch_warnings(action="ignore"):
        archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", b"{}")
