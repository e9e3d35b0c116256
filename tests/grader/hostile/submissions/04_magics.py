# expect: OK 32
# note: lines for IPython and the shell do not run and cost nothing

from grader.notebooks import grade_id, source, write_notebook

LINES = "%matplotlib inline\n!touch /tmp/hostile-escape-shell\n%%time\n"


def build(folder, solved, release):
    for cell in solved["cells"]:
        if grade_id(cell) == "lora_delta":
            cell["source"] = LINES + source(cell)
    write_notebook(folder / "lab03_lora.ipynb", solved)
