# expect: PARTIAL 28
# cell lora_delta: WRONG|CRASH|OOM|TIMEOUT
# note: a million digits

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    return 10**1_000_000
