# expect: INVALID
# says: clear its outputs
# note: more than any notebook holds


def build(folder, solved, release):
    with (folder / "lab03_lora.ipynb").open("wb") as file:
        file.write(b'{"cells": [')
        file.truncate(500 * 2**20)
