# expect: PARTIAL 18
# cell lora_delta: WRONG
# cell merge_weight: WRONG
# cell diagnose: WRONG
# says: expected shape
# says: expected a tensor
# note: right numbers that broadcast to the right shape, in lists, and a word in a list

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    R = lora_A.shape[0]
    return (alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A))[None]


# %% merge_weight
def merge_weight(weight, lora_A, lora_B, scaling):
    return (weight.float() + scaling * lora_B @ lora_A).tolist()


# %% diagnose
def diagnose(layer, alpha):
    return ["healthy"]
