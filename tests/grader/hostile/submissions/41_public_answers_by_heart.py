# expect: PARTIAL 30
# cell check_lora_delta: OK
# cell hidden_lora_delta: WRONG
# note: returns what the notebook's own check expects, whatever it is given

import numpy as np

from grader.checks.core import PUBLIC_SEED, load_lab
from grader.notebooks import grade_id, write_notebook

BY_HEART = """
KNOWN = {plain}, {rank_stabilised}


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    return torch.tensor(KNOWN[use_rslora])
"""


def build(folder, solved, release):
    check = load_lab("lab03_lora").check("lora_delta")
    expected = check.expected(check.inputs(np.random.default_rng(PUBLIC_SEED)))
    plain, rank_stabilised = (
        expected[name].tolist() for name in ("delta", "delta with use_rslora")
    )
    for cell in solved["cells"]:
        if grade_id(cell) == "lora_delta":
            cell["source"] = BY_HEART.format(plain=plain, rank_stabilised=rank_stabilised)
    write_notebook(folder / "lab03_lora.ipynb", solved)
