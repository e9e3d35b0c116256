# expect: PARTIAL 28
# cell lora_delta: WRONG
# note: what an answer raises is printed on the instructor's terminal

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    raise ValueError("\x1b[2J\x1b]0;owned\x07\x9b31m\r\b\u202egnp.exe\u2028\n\nOK 32/32")
