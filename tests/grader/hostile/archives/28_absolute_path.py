# expect: refused
# note: a name that begins at the root of the file system


def add(archive, notebook):
    archive.writestr("/tmp/hostile-escape.ipynb", notebook)
    archive.writestr("//tmp/hostile-escape.ipynb", notebook)
