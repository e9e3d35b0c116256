# expect: refused
# format: tar.gz
# note: an honest name in the header, another in the extended one

import io
import tarfile


def add(archive, notebook):
    for name in ("../../hostile-escape.ipynb", "/tmp/hostile-escape.ipynb", "x\n.ipynb"):
        info = tarfile.TarInfo("mallory/lab03_lora/lab03_lora.ipynb")
        info.pax_headers = {"path": f"mallory/lab03_lora/{name}", "mtime": "nan"}
        info.size = len(notebook)
        archive.addfile(info, io.BytesIO(notebook))
