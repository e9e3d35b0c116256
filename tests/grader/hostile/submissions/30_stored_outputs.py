# expect: WRONG 0
# base: release
# note: check cells that have already passed, by what they say

from grader.notebooks import is_grade, write_notebook


def build(folder, solved, release):
    for cell in release["cells"]:
        if is_grade(cell):
            cell["execution_count"] = 1
            cell["outputs"] = [
                {
                    "output_type": "execute_result",
                    "data": {"text/plain": ["32.0"]},
                    "execution_count": 1,
                    "metadata": {},
                },
                {"output_type": "stream", "name": "stdout", "text": ["passed\\n"]},
            ]
    write_notebook(folder / "lab03_lora.ipynb", release)
