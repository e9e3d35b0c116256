# expect: PARTIAL 19
# cell lora_delta: WRONG
# cell merge_weight: WRONG
# cell train_step: WRONG
# says: nan or infinite
# note: nan is close to nothing, infinity to nothing finite, and minus zero is no loss

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    return torch.full((lora_B.shape[0], lora_A.shape[1]), math.nan)


# %% merge_weight
def merge_weight(weight, lora_A, lora_B, scaling):
    return torch.full_like(weight, math.inf)


# %% train_step
def train_step(model, micro_batches, optimizer, clip_norm):
    return -0.0
