# expect: INVALID
# says: format 4
# note: of the time before 2015

import json


def build(folder, solved, release):
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": []}]}
    (folder / "lab03_lora.ipynb").write_text(json.dumps(old))
