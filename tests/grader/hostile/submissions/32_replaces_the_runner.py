# expect: TAMPER|WRONG|CRASH|TIMEOUT 0
# base: release
# cell any: WRONG|CRASH|TIMEOUT
# note: the code that calls an answer and reports what came is in the same process

# %% lora_delta
import sys
from types import SimpleNamespace

runner = sys.modules["grader.box.runner"]
explain = sys.modules["grader.checks.explain"]


def right(question, *rest):
    names = ("delta", "delta with use_rslora", "the factors are left unchanged")
    return {"error": "", "outputs": dict.fromkeys(names, True), "ok": True, "score": 32}


for name in ("_answer", "_run_cell", "_call", "_limit", "answer"):
    setattr(runner, name, right)
explain.explain = lambda *a: ""
sys.modules["grader.box.wire"].encode = lambda message: b""
sys.modules["grader.checks.values"].difference = lambda *a: ""
sys.modules["grader.checks.core"] = SimpleNamespace(compare=lambda *a: True)

# %% lora_linear
pass

# %% apply_lora
pass

# %% merge_weight
pass

# %% diagnose
pass

# %% train_step
pass
