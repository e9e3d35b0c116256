# expect: refused
# format: tar.gz
# note: names that climb and names that begin at the root

import io
import tarfile


def add(archive, notebook):
    for name in ("mallory/../../hostile-escape.ipynb", "/tmp/hostile-escape.ipynb"):
        info = tarfile.TarInfo(name)
        info.size = len(notebook)
        archive.addfile(info, io.BytesIO(notebook))
