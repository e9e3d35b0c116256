# expect: OK 32
# note: metadata that is no object

from grader.notebooks import write_notebook


def build(folder, solved, release):
    solved["metadata"] = [
        "kernelspec",
        {"name": "../../bin/sh", "argv": ["touch", "/tmp/hostile-escape"]},
    ]
    write_notebook(folder / "lab03_lora.ipynb", solved)
