# expect: PARTIAL 28
# cell lora_delta: WRONG|CRASH|OOM
# note: large only once it is written out

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    return torch.zeros(1).expand(1_250_000_000)
