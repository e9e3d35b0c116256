# expect: OK 32
# note: the course's own kernel grades

from grader.notebooks import write_notebook


def build(folder, solved, release):
    solved["metadata"]["kernelspec"] = {
        "name": "no-such-kernel",
        "display_name": "?",
        "language": "?",
    }
    write_notebook(folder / "lab03_lora.ipynb", solved)
