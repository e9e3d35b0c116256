# expect: PARTIAL 17
# cell merge_weight: WRONG
# cell diagnose: WRONG
# cell train_step: WRONG
# says: merge_weight is not written yet
# note: three exercises of six

# %% merge_weight
def merge_weight(weight, lora_A, lora_B, scaling):
    raise NotImplementedError()


# %% diagnose
def diagnose(layer, alpha):
    raise NotImplementedError()


# %% train_step
def train_step(model, micro_batches, optimizer, clip_norm):
    raise NotImplementedError()
