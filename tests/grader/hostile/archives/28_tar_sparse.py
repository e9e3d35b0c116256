# expect: refused
# format: tar.gz
# note: a file of a terabyte that is one hole

import io
import tarfile


def add(archive, notebook):
    info = tarfile.TarInfo("mallory/lab03_lora/lab03_lora.ipynb")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    info.pax_headers |= {"GNU.sparse.realsize": str(2**40), "GNU.sparse.name": info.name}
    info.size = 512
    archive.addfile(info, io.BytesIO(b"1\n0\n0\n".ljust(512, b"\0")))
