# expect: OK 32
# note: graded cells of the student's own, worth a thousand points

from grader.notebooks import write_notebook


def build(folder, solved, release):
    for number in range(3):
        fields = {"grade_id": f"check_extra_{number}", "points": 1000, "grade": True}
        fields |= {"solution": False, "locked": True, "task": False, "schema_version": 3}
        cell = {"cell_type": "code", "metadata": {"nbgrader": fields}, "source": "pass"}
        solved["cells"].append(
            cell | {"outputs": [], "execution_count": None, "id": f"extra{number}"}
        )
    write_notebook(folder / "lab03_lora.ipynb", solved)
