# expect: PARTIAL 13
# cell lora_delta: WRONG
# cell merge_weight: WRONG
# cell diagnose: WRONG
# cell train_step: WRONG
# says: SystemExit
# says: KeyboardInterrupt
# note: exceptions that end programs end no box

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    import sys

    sys.exit(0)


# %% merge_weight
def merge_weight(weight, lora_A, lora_B, scaling):
    raise KeyboardInterrupt


# %% diagnose
def diagnose(layer, alpha):
    raise GeneratorExit


# %% train_step
raise SystemExit("done")
