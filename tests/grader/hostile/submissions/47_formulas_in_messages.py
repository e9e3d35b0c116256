# expect: PARTIAL 28
# cell lora_delta: WRONG
# note: what an answer raises is a cell of the exported table

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    raise ValueError('=HYPERLINK("http://example.invalid")\n=cmd()\t+1\r-1,@x')
