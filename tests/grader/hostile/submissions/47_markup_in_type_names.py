# expect: PARTIAL 18
# cell lora_delta: WRONG
# cell merge_weight: WRONG
# cell diagnose: WRONG
# note: names of types and keys are chosen by whoever writes the class

# %% lora_delta
EVIL = "<script>alert(1)</script>\x1b[2J"


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    return type(EVIL, (), {})()


# %% merge_weight
def merge_weight(weight, lora_A, lora_B, scaling):
    raise type(EVIL, (Exception,), {})(EVIL)


# %% diagnose
def diagnose(layer, alpha):
    return EVIL
