# expect: PARTIAL 24
# cell lora_delta: CRASH
# cell merge_weight: CRASH
# says: the process ended
# note: two ways to die in C; the rest is graded in new processes

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    import ctypes

    ctypes.string_at(0)


# %% merge_weight
def merge_weight(weight, lora_A, lora_B, scaling):
    import os

    os.abort()
