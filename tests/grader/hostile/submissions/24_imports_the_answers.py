# expect: WRONG 0
# base: release
# note: labkit is on the student's machine and holds the answers: not in the box of this lab

# %% lora_delta
import importlib

NAMES = ("lora_delta", "LoraLinear", "apply_lora", "merge_weight", "diagnose", "train_step")
MODULES = (
    "labkit.tuning.lora",
    "labkit.tuning",
    "grader.labs.lab03_lora.reference",
    "grader.labs.lab03_lora.check",
    "grader.labs.lab03_lora.mutants",
    "grader.checks.core",
    "peft.tuners.lora",
)
for module in MODULES:
    try:
        found = vars(importlib.import_module(module))
    except ImportError:
        continue
    globals().update({name: found[name] for name in NAMES if name in found})

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
