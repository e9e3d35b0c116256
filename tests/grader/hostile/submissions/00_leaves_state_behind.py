# expect: OK 32
# note: what one question changes in its process reaches no other student

# %% lora_delta
import gc
import locale
import os
import random
import sys
import warnings


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    os.chdir("/")
    os.umask(0o777)
    gc.disable()
    random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    sys.path.insert(0, "/tmp")
    sys.setrecursionlimit(400)
    os.environ["HOME"] = os.environ["TMPDIR"] = "/nowhere"
    locale.setlocale(locale.LC_ALL, "C")
    R = lora_A.shape[0]
    return alpha / (R**0.5 if use_rslora else R) * (lora_B @ lora_A)
