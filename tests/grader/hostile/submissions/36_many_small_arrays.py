# expect: PARTIAL 28
# cell lora_delta: WRONG|CRASH|OOM|TIMEOUT
# note: a hundred thousand arrays of one number

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    return [torch.zeros(1) for _ in range(100_000)]
