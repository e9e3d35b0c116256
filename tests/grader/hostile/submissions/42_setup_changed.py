# expect: OK 32
# note: setup and parameters are the course's own; what the student made of them does not run

from grader.notebooks import grade_id, tags, write_notebook


def build(folder, solved, release):
    for cell in solved["cells"]:
        if grade_id(cell) == "setup" or "parameters" in tags(cell):
            cell["source"] = "open('/tmp/hostile-escape-setup', 'w')\nraise SystemExit"
    write_notebook(folder / "lab03_lora.ipynb", solved)
