# expect: OK 32
# note: two lists of cells: the first is wrong, the last is what JSON readers take

import json


def build(folder, solved, release):
    cells = json.dumps(solved["cells"])
    text = '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [], "cells": %s}'
    (folder / "lab03_lora.ipynb").write_text(text % cells)
