# expect: OK 32
# note: most of them empty

from grader.notebooks import write_notebook


def build(folder, solved, release):
    empty = {
        "cell_type": "code",
        "metadata": {},
        "source": "",
        "outputs": [],
        "execution_count": None,
    }
    solved["cells"] += [empty | {"id": f"empty{number}"} for number in range(10_000)]
    write_notebook(folder / "lab03_lora.ipynb", solved)
