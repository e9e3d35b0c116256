# expect: PARTIAL 28
# cell lora_delta: WRONG|CRASH|OOM|TIMEOUT
# note: a hundred levels of two equal halves, 2**100 when written out

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    halves = []
    for _ in range(100):
        halves = [halves, halves]
    return halves
