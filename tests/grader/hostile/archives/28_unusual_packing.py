# expect: refused
# note: packed by a method that takes long and much memory to unpack

import zipfile


def add(archive, notebook):
    archive.writestr(
        "mallory/lab03_lora/lab03_lora.ipynb", notebook, compress_type=zipfile.ZIP_LZMA
    )
