# expect: refused
# note: zip entries that say they are pipes and devices

import stat
import zipfile


def add(archive, notebook):
    for kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK):
        info = zipfile.ZipInfo(f"mallory/lab03_lora/{kind}.ipynb")
        info.create_system, info.external_attr = 3, (kind | 0o666) << 16
        archive.writestr(info, notebook)
