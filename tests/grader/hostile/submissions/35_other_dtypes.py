# expect: PARTIAL 19
# cell lora_delta: WRONG
# cell merge_weight: WRONG
# cell train_step: WRONG
# says: expected dtype float32, got float64
# says: expected float
# note: right numbers in float64, in float32 where bfloat16 went in, and in a tensor

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    R = lora_A.shape[0]
    scaling = alpha / (R**0.5 if use_rslora else R)
    return scaling * (lora_B.double() @ lora_A.double())


# %% merge_weight
def merge_weight(weight, lora_A, lora_B, scaling):
    return weight.float() + scaling * lora_B @ lora_A


# %% train_step
def train_step(model, micro_batches, optimizer, clip_norm):
    return torch.tensor(1.0, requires_grad=True)
