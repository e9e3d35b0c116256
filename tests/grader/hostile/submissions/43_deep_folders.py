# expect: INVALID
# note: deeper than a path can be long

import os


def build(folder, solved, release):
    here = os.open(folder, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("a-folder-in-a-folder", dir_fd=here)
        below = os.open("a-folder-in-a-folder", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
