# expect: TIMEOUT 0
# cell lora_delta: TIMEOUT
# cell lora_linear: TIMEOUT
# cell apply_lora: TIMEOUT
# cell merge_weight: TIMEOUT
# cell diagnose: TIMEOUT
# cell train_step: TIMEOUT
# note: every exercise runs out of time, and the submission as a whole ends in its own

# %% lora_delta
def endless(*arguments, **options):
    while True:
        pass


lora_delta = endless

# %% lora_linear
LoraLinear = endless

# %% apply_lora
apply_lora = endless

# %% merge_weight
merge_weight = endless

# %% diagnose
diagnose = endless

# %% train_step
train_step = endless
