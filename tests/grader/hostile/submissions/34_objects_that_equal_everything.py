# expect: WRONG 0
# base: release
# cell any: WRONG|TIMEOUT|OOM
# note: agrees with whatever it is compared with and is called, indexed and converted at will

# %% lora_delta
import numpy as np


class Anything:
    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    def __lt__(self, other):
        return True

    __le__ = __gt__ = __ge__ = __lt__
    __hash__ = object.__hash__

    def __array__(self, dtype=None, copy=None):
        return np.zeros(1)

    def __call__(self, *arguments, **options):
        return self

    def __getattr__(self, name):
        return self

    def __getitem__(self, index):
        return self

    def __float__(self):
        return 0.0

    def __bool__(self):
        return True

    @property
    def __class__(self):
        return torch.Tensor

    def __reduce__(self):
        return (__import__("os").system, ("touch /tmp/hostile-escape-reduce",))


lora_delta = Anything()

# %% lora_linear
LoraLinear = Anything()

# %% apply_lora
apply_lora = Anything()

# %% merge_weight
merge_weight = Anything()

# %% diagnose
diagnose = Anything()

# %% train_step
train_step = Anything()
