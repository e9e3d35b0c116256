# expect: refused
# note: empty files without end


def add(archive, notebook):
    archive.writestr("mallory/lab03_lora/lab03_lora.ipynb", notebook)
    for number in range(100_000):
        archive.writestr(f"mallory/lab03_lora/{number}.py", b"")
