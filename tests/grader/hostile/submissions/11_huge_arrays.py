# expect: PARTIAL 19
# cell lora_delta: WRONG|OOM
# cell merge_weight: WRONG|OOM
# cell train_step: WRONG|OOM
# note: one allocation larger than the machine, one than the limit, one that lies untouched

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    return torch.zeros(10**13)


# %% merge_weight
def merge_weight(weight, lora_A, lora_B, scaling):
    return torch.ones(5 * 10**8)


# %% train_step
def train_step(model, micro_batches, optimizer, clip_norm):
    import numpy as np

    return np.empty(10**9)
