# expect: OK 32
# note: named like what a grader imports; each would say that it ran

from grader.notebooks import write_notebook

RAN = "open('/tmp/hostile-escape-module', 'w').close()\n"
NAMES = (
    "json.py",
    "torch.py",
    "numpy/__init__.py",
    "grader/__init__.py",
    "labkit/__init__.py",
    "conftest.py",
    "test_everything.py",
    "sitecustomize.py",
    "usercustomize.py",
    "nbgrader_config.py",
    "jupyter_config.py",
    "autograde.py",
    ".ipython/profile_default/startup/00.py",
    ".ipython/profile_default/ipython_config.py",
    ".jupyter/jupyter_nbconvert_config.py",
)


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora.ipynb", solved)
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(RAN)
    (folder / "hostile.pth").write_text("import os; " + RAN)
