# expect: PARTIAL 28
# cell lora_delta: WRONG
# says: reached []
# note: no token, nothing of the grader's

# %% lora_delta
import os


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    words = ("_TOKEN", "SECRET", "KEY", "NBGRADER", "GRADER", "COURSE", "SSH", "PYTEST")
    reached = [(k, v) for k, v in os.environ.items() if any(word in k for word in words)]
    raise RuntimeError(f"reached {reached}")
