# expect: refused
# format: tar.gz
# note: three hundred megabytes of zeros in a notebook

import tarfile


def add(archive, notebook):
    info = tarfile.TarInfo("mallory/lab03_lora/lab03_lora.ipynb")
    info.size = 300 * 2**20
    with open("/dev/zero", "rb") as zeros:
        archive.addfile(info, zeros)
