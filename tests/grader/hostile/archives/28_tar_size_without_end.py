# expect: damaged
# format: tar.gz
# note: a header that says four exabytes follow

import tarfile


def add(archive, notebook):
    info = tarfile.TarInfo("mallory/lab03_lora/lab03_lora.ipynb")
    info.size = 2**62
    archive.fileobj.write(info.tobuf())
    archive.fileobj.write(notebook)
