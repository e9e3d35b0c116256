# expect: PARTIAL 28
# cell lora_delta: WRONG|CRASH|OOM
# note: deeper than any recursion goes

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    nested = []
    for _ in range(10**6):
        nested = [nested]
    return nested
