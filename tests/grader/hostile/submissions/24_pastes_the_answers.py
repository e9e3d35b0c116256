# expect: WRONG 0
# base: release
# note: the file that makes labkit an answer of this lab is on every student's machine

from pathlib import Path

from grader.checks.core import load_lab
from grader.labs.lab03_lora import reference
from grader.notebooks import grade_id, write_notebook


def build(folder, solved, release):
    symbols = {check.name: check.implementation for check in load_lab("lab03_lora").checks}
    answers = Path(reference.__file__).read_text()
    for cell in release["cells"]:
        if name := symbols.get(grade_id(cell)):
            cell["source"] = f"{answers}\n\n{name} = IMPLEMENTATIONS['{grade_id(cell)}']\n"
    write_notebook(folder / "lab03_lora.ipynb", release)
