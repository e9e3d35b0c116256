# expect: INVALID or OK 32
# note: two thousand files to look through, the right one among them

from grader.notebooks import write_notebook


def build(folder, solved, release):
    for number in range(2_000):
        (folder / f"{number}.ipynb").write_text("{}")
    write_notebook(folder / "renamed.ipynb", solved)
