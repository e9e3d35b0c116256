# expect: PARTIAL 18
# cell lora_delta: WRONG|CRASH
# cell merge_weight: WRONG|CRASH
# cell diagnose: WRONG|CRASH
# note: source that is deeper than compilers go: signs, brackets, attributes

from grader.notebooks import grade_id, write_notebook

SOURCES = {
    "lora_delta": "lora_delta = " + "-" * 100_000 + "1",
    "merge_weight": "merge_weight = " + "(" * 10_000 + ")" * 10_000,
    "diagnose": "diagnose = torch" + ".nn" * 50_000,
}


def build(folder, solved, release):
    for cell in solved["cells"]:
        cell["source"] = SOURCES.get(grade_id(cell), cell["source"])
    write_notebook(folder / "lab03_lora.ipynb", solved)
