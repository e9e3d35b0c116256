# expect: PARTIAL 26 or TAMPER <=26
# cell apply_lora: WRONG|TAMPER
# says: the output of the changed model:
# note: the function that calls an answer and describes what it did is in the student's process

# %% apply_lora
import sys

drive = sys.modules["grader.labs.lab03_lora.drive"]


def described(impl, inputs):
    """What the drive would say of a right answer, as far as it can be said without one."""
    model = drive.Model(inputs)
    results = {}
    wrapped = added = 0
    extras = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            last = name.split(".")[-1]
            chosen = last in inputs["targets"] and isinstance(module, nn.Linear)
            results[f"{name} is wrapped"] = chosen
            wrapped += chosen
            if chosen:
                added += 2 * module.in_features
                extras.append(torch.ones(2, module.in_features))
    total = sum(p.numel() for p in model.parameters()) + added
    frozen = {f"{name} is frozen": True for name, _ in model.named_parameters()}
    return {
        **results,
        **frozen,
        "the number of wrapped layers": wrapped,
        "the base weights are the same tensors": True,
        "what make_layer added trains": True,
        "the number of trainable parameters, counts[0]": added,
        "the number of all parameters, counts[1]": total,
        "targets that match nothing raise ValueError": True,
        "that error's text has every name asked for": True,
        "the output of the changed model": model(inputs["x"]).detach(),
        "the gradients of what was added": extras,
        "gradients of what was there before": [],
    }


for holder in (drive, *(v for v in vars(drive).values() if isinstance(v, dict))):
    names = holder if isinstance(holder, dict) else vars(holder)
    if callable(names.get("apply_lora")):
        names["apply_lora"] = described


def apply_lora(model, make_layer, targets):
    raise NotImplementedError()
