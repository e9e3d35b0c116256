# expect: PARTIAL 28
# cell lora_delta: WRONG|CRASH|OOM|TIMEOUT
# note: a hundred million characters

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    return "x" * 10**8
