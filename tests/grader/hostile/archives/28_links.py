# expect: refused
# note: a link to a secret, and a file below a link to a folder

import stat
from zipfile import ZipInfo


def link(name):
    info = ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def add(archive, notebook):
    archive.writestr(link("mallory/lab03_lora/lab03_lora.ipynb"), "/etc/passwd")
    archive.writestr(link("mallory/lab03_lora/out"), "/tmp")
    archive.writestr("mallory/lab03_lora/out/hostile-escape.py", "")
