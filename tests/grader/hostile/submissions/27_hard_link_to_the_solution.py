# expect: INVALID
# note: one file under two names: a notebook that lies in the course as well

import os


def build(folder, solved, release):
    answers = folder.parents[2] / "solutions" / "lab03_lora" / "lab03_lora.ipynb"
    os.link(answers, folder / "lab03_lora.ipynb")
