# expect: TAMPER|WRONG|CRASH|TIMEOUT 0
# base: release
# cell any: WRONG|CRASH|TIMEOUT
# note: takes the grader's pipe over and answers every question with what looks right

# %% lora_delta
import sys

runner = sys.modules.get("grader.box.runner")
frame = sys._getframe()
while frame is not None and "channel" not in frame.f_locals:
    frame = frame.f_back
if frame is not None:
    channel = frame.f_locals["channel"]
    channel.send({"event": "loaded", "errors": {}})
    while True:
        question = channel.receive()
        inputs = question["inputs"]
        guess = {"the factors are left unchanged": True}
        for name in ("delta", "delta with use_rslora"):
            guess[name] = torch.zeros(inputs["lora_B"].shape[0], inputs["lora_A"].shape[1])
        answer = {"event": "answer", "id": question["id"], "error": "", "outputs": guess}
        channel.send(answer)

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
