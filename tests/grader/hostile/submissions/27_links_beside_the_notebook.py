# expect: OK 32
# note: other links in the folder are not followed, one of them leads in a circle

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora.ipynb", solved)
    (folder / "tokens.ipynb").symlink_to(folder.parents[2] / "tokens.txt")
    (folder / "circle").symlink_to(".")
    (folder / "everything").symlink_to("/")
