# expect: PARTIAL 28
# cell lora_delta: WRONG|CRASH|OOM
# note: has no end when it is written out

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    circle = {}
    circle["again"] = [circle, circle]
    return circle
