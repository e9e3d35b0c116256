# expect: PARTIAL 28
# cell lora_delta: WRONG
# says: nobody answers input()
# note: asks a question of somebody who is not there

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    return input("delta? ")
