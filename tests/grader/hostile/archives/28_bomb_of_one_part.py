# expect: refused
# note: a thousand files that share one packed part

import copy


def add(archive, notebook):
    archive.writestr("mallory/lab03_lora/0.py", b"#" * 2**20)
    shared = archive.infolist()[-1]
    for number in range(1, 1000):
        twin = copy.copy(shared)
        twin.filename = twin.orig_filename = f"mallory/lab03_lora/{number}.py"
        archive.filelist.append(twin)
    archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", notebook)
