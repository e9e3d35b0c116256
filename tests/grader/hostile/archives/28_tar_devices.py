# expect: refused
# format: tar.gz
# note: pipes and devices where notebooks should be

import tarfile


def member(kind, name, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def add(archive, notebook):
    archive.addfile(member(tarfile.FIFOTYPE, "mallory/lab03_lora/lab03_lora.ipynb"))
    archive.addfile(member(tarfile.CHRTYPE, "mallory/lab03_lora/zero"))
    archive.addfile(member(tarfile.BLKTYPE, "mallory/lab03_lora/disk"))
