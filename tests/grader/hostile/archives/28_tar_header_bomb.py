# expect: damaged
# format: tar.gz
# note: a header of a hundred megabytes before a small file

import io
import tarfile


def add(archive, notebook):
    info = tarfile.TarInfo("mallory/lab03_lora/lab03_lora.ipynb")
    info.pax_headers = {"comment": "x" * (100 * 2**20)}
    info.size = len(notebook)
    archive.addfile(info, io.BytesIO(notebook))
