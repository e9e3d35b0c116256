# expect: PARTIAL 28
# cell lora_delta: TIMEOUT
# says: longer than
# note: a loop that never ends costs its own exercise only

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    while True:
        pass
