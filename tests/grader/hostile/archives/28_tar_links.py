# expect: refused
# format: tar.gz
# note: a link out of the folder, and a hard link to a classmate's notebook

import tarfile


def member(kind, name, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def add(archive, notebook):
    archive.addfile(member(tarfile.SYMTYPE, "mallory/lab03_lora/out", "/tmp"))
    archive.addfile(member(tarfile.REGTYPE, "mallory/lab03_lora/out/hostile-escape.py"))
    target = "aa-honest/lab03_lora/lab03_lora.ipynb"
    archive.addfile(member(tarfile.LNKTYPE, "mallory/lab03_lora/lab03_lora.ipynb", target))
