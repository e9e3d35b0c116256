# expect: TAMPER|WRONG|CRASH|TIMEOUT 0
# base: release
# cell any: WRONG|CRASH|TIMEOUT
# note: trace and profile functions that make the checks' own functions return true

# %% lora_delta
import sys
import threading


def tracer(frame, event, argument):
    if frame.f_code.co_name in ("difference", "verdict", "compare", "equal"):
        frame.f_locals["clause"] = ""
        frame.f_lineno = frame.f_lineno
    return tracer


sys.settrace(tracer)
sys.setprofile(tracer)
threading.settrace(tracer)

# %% lora_linear
pass

# %% apply_lora
pass

# %% merge_weight
pass

# %% diagnose
pass

# %% train_step
pass
