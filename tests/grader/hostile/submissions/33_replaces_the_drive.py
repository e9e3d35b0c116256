# expect: PARTIAL 26 or TAMPER <=26
# cell apply_lora: WRONG|TAMPER
# known: side effects and identities are reported by the student's own process
# note: the function that calls an answer and describes what it did is in the student's process

# %% apply_lora
import sys

drive = sys.modules["grader.labs.lab03_lora.drive"]


def described(impl, inputs):
    """What the drive would say of a right answer, without one."""
    model = drive._model(inputs)
    results = {}
    wrapped = added = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            last = name.split(".")[-1]
            chosen = last in inputs["targets"] and isinstance(module, nn.Linear)
            results[f"{name} is wrapped"] = chosen
            wrapped += chosen
            added += 2 * module.in_features if chosen else 0
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
    }


for holder in (drive, *(v for v in vars(drive).values() if isinstance(v, dict))):
    names = holder if isinstance(holder, dict) else vars(holder)
    if callable(names.get("apply_lora")):
        names["apply_lora"] = described


def apply_lora(model, make_layer, targets):
    raise NotImplementedError()
