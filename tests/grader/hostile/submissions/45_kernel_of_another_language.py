# expect: OK 32
# note: opened with the kernel of R by mistake

from grader.notebooks import write_notebook


def build(folder, solved, release):
    solved["metadata"]["kernelspec"] = {"name": "ir", "display_name": "R", "language": "R"}
    solved["metadata"]["language_info"] = {"name": "R", "file_extension": ".r"}
    write_notebook(folder / "lab03_lora.ipynb", solved)
