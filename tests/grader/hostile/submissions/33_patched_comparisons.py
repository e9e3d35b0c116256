# expect: TAMPER|WRONG|CRASH|TIMEOUT 0
# base: release
# cell any: WRONG|CRASH|TIMEOUT
# note: every function that compares says yes

# %% lora_delta
import builtins
import math

import numpy as np


def yes(*arguments, **options):
    return True


for module, names in (
    (np.testing, ("assert_allclose", "assert_equal", "assert_array_equal", "assert_array_less")),
    (np, ("allclose", "isclose", "array_equal", "isfinite", "all", "count_nonzero")),
    (math, ("isclose", "isfinite")),
    (torch, ("allclose", "equal", "isclose", "all", "isfinite")),
    (torch.testing, ("assert_close",)),
    (builtins, ("all", "isinstance", "issubclass", "callable")),
):
    for name in names:
        setattr(module, name, yes)
builtins.abs = lambda value: 0.0


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    return torch.zeros(lora_B.shape[0], lora_A.shape[1])


# %% lora_linear
LoraLinear = lora_delta


# %% apply_lora
def apply_lora(model, make_layer, targets):
    return 1, 1


# %% merge_weight
def merge_weight(weight, lora_A, lora_B, scaling):
    return weight


# %% diagnose
def diagnose(layer, alpha):
    return "healthy"


# %% train_step
def train_step(model, micro_batches, optimizer, clip_norm):
    return 0.0
