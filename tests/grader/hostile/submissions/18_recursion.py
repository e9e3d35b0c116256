# expect: PARTIAL 18
# cell lora_delta: CRASH|WRONG
# cell merge_weight: CRASH|WRONG|OOM|TIMEOUT
# cell diagnose: WRONG
# note: through C until its stack is full, in Python until memory or time is, and within the limit

# %% lora_delta
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    import sys

    sys.setrecursionlimit(10**9)

    def deeper(_):
        return max([0], key=deeper)

    return deeper(0)


# %% merge_weight
def merge_weight(weight, lora_A, lora_B, scaling):
    import sys

    sys.setrecursionlimit(10**9)

    def deeper(n):
        return deeper(n + 1)

    return deeper(0)


# %% diagnose
def diagnose(layer, alpha):
    return diagnose(layer, alpha)
