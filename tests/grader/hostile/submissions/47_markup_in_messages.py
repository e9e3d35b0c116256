# expect: PARTIAL 28
# cell lora_delta: WRONG
# says: alert
# note: what an answer raises is shown to its student and to the instructor as text

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    raise ValueError(
        "<script>alert(1)</script><img src=x onerror=alert(1)>]]><svg/onload=alert(1)>"
    )
