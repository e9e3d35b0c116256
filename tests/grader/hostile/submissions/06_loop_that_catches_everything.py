# expect: PARTIAL 28
# cell lora_delta: TIMEOUT
# says: longer than
# note: no exception gets it out of its loop

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue
