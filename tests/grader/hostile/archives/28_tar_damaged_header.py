# expect: damaged
# format: tar.gz
# says: a header is damaged or missing
# note: a header with a wrong checksum, which some readers take for the end

import tarfile


def add(archive, notebook):
    header = bytearray(tarfile.TarInfo("mallory/lab03_lora/lab03_lora.ipynb").tobuf())
    header[0] ^= 1
    archive.fileobj.write(header)
