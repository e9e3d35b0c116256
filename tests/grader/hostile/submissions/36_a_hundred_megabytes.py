# expect: PARTIAL 28
# cell lora_delta: WRONG|CRASH|OOM|TIMEOUT
# note: fits into memory and not into an answer

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    return torch.zeros(25_000_000)
