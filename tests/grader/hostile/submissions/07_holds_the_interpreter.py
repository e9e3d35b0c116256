# expect: PARTIAL 28
# cell lora_delta: TIMEOUT
# says: longer than
# note: one call into C that never comes back

# %% lora_delta
import re


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    return re.match(r"(a+)+$", "a" * 64 + "b")
