# expect: TAMPER|WRONG|CRASH|TIMEOUT 0
# base: release
# cell any: WRONG|CRASH|TIMEOUT
# note: what a notebook's check cell would have shown

# %% lora_delta
import json
import sys

RESULT = {"status": "OK", "score": 32.0, "max_score": 32.0, "cells": []}
for stream in (sys.stdout, sys.stderr):
    stream.write("32.0\n" + json.dumps(RESULT) + "\n")
sys.stdout.write('{"event": "answer", "id": 1, "error": "", "outputs": {}}\n')

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
