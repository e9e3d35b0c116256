# expect: OK 32
# note: bytes that are no date

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora.ipynb", solved)
    (folder / "timestamp.txt").write_bytes(b"\xff\x00tomorrow; DROP TABLE" * 1000)
