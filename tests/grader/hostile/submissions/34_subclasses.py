# expect: PARTIAL 13
# cell lora_delta: WRONG
# cell merge_weight: WRONG
# cell diagnose: WRONG
# cell train_step: WRONG
# says: Agreeable
# note: right kinds of numbers, but of types with a comparison of their own

# %% lora_delta
import numpy as np


class AgreeableTensor(Tensor):
    def __eq__(self, other):
        return torch.ones(1, dtype=torch.bool)

    __hash__ = Tensor.__hash__


class AgreeableArray(np.ndarray):
    def __eq__(self, other):
        return np.ones(1, dtype=bool)

    __hash__ = None


class AgreeableText(str):
    __slots__ = ()

    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


class AgreeableFloat(float):
    def __eq__(self, other):
        return True

    def __lt__(self, other):
        return True

    __hash__ = float.__hash__


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    return torch.zeros(lora_B.shape[0], lora_A.shape[1]).as_subclass(AgreeableTensor)


# %% merge_weight
def merge_weight(weight, lora_A, lora_B, scaling):
    return np.zeros(tuple(weight.shape), dtype=np.float32).view(AgreeableArray)


# %% diagnose
def diagnose(layer, alpha):
    return AgreeableText("healthy")


# %% train_step
def train_step(model, micro_batches, optimizer, clip_norm):
    return AgreeableFloat(1.0)
