"""Wrong answers to lab 03's questions, as changes of the solution."""

from grader.mutants import Mutants

SCALING = "alpha / math.sqrt(R) if use_rslora else alpha / R"
UPDATE = "scaling * (lora_B @ lora_A)"
DRAW = "nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)"
NARROW = "narrow = x @ self.lora_A.T  # (..., I) -> (..., R)"
OUTPUT = "self.base(x) + self.scaling * (narrow @ self.lora_B.T)"
MATCH = 'path.split(".")[-1] in targets'
REFUSAL = """raise ValueError(f"no linear layer is called {' or '.join(targets)}")"""
ADD = "torch.addmm(weight.float(), lora_B, lora_A, alpha=scaling)"
IS_DEAD = "layer.lora_A.count_nonzero() + layer.lora_B.count_nonzero() == 0"
CLIP = "nn.utils.clip_grad_norm_([p for group in groups for p in group], clip_norm)"
LOOP = "for ids, labels in micro_batches:"
COUNT = "labels[:, 1:].ne(-100).sum()"
BACKWARD = "(summed / counted).backward()"

ONE_BACKWARD = [
    ("loss_nats = 0.0", "loss = torch.zeros(())"),
    (f"{BACKWARD}\n        loss_nats += summed.item() / counted", "loss = loss + summed / counted"),
    ("groups = [", "loss.backward()\n    groups = ["),
    ("return loss_nats", "return loss.item()"),
]
ONE_BATCH = """\
longest = max(ids.shape[1] for ids, _ in micro_batches)
    missing = [(0, longest - ids.shape[1]) for ids, _ in micro_batches]
    pad = nn.functional.pad
    pairs = [
        (pad(ids, after), pad(labels, after, value=-100))
        for (ids, labels), after in zip(micro_batches, missing)
    ]
    micro_batches = [tuple(torch.cat(parts) for parts in zip(*pairs))]
    optimizer.zero_grad()"""

MUTANTS: Mutants = {
    "lora_delta": {
        "divides by the rank, forgets alpha": [(SCALING, "1 / R")],
        "multiplies by alpha, forgets the rank": [(SCALING, "alpha")],
        "transposed": [(UPDATE, f"{UPDATE}.T")],
        "ignores use_rslora": [(SCALING, "alpha / R")],
        "scales a factor in place": [(UPDATE, "lora_B.mul_(scaling) @ lora_A")],
    },
    "lora_linear": {
        "both factors zero": [(DRAW, "nn.init.zeros_(down)")],
        "both factors random": [
            (
                "torch.zeros(base.out_features, rank)",
                "torch.randn(base.out_features, rank, generator=generator)",
            ),
        ],
        "base trains": [("parameter.requires_grad = False", "pass")],
        "no scaling": [("self.scaling * (narrow", "(narrow")],
        "draws from the global generator": [(", generator=generator)", ")")],
        "lora_A gets no gradient": [("x @ self.lora_A.T", "x @ self.lora_A.detach().T")],
        "seeds the global generator": [
            (DRAW, "torch.manual_seed(0)\n        nn.init.kaiming_uniform_(down, a=math.sqrt(5))"),
        ],
        "draws from a seed of its own": [
            ("generator=generator", "generator=torch.Generator().manual_seed(0)"),
        ],
        "draws one number more than it needs": [
            ("down = torch.empty(", "torch.randn(1)\n        down = torch.empty("),
        ],
        "takes lora_A from an nn.Linear": [
            (DRAW, "down = nn.Linear(base.in_features, rank, bias=False).weight.detach()"),
        ],
        "starts the generator again": [
            (DRAW, f"generator.manual_seed(generator.initial_seed())\n        {DRAW}"),
        ],
        "multiplies x with the whole update": [
            (NARROW, "update = self.scaling * self.lora_B @ self.lora_A"),
            (OUTPUT, "self.base(x) + x @ update.T"),
        ],
        "adds the update to the weight": [
            (NARROW, "weight = self.base.weight + self.scaling * self.lora_B @ self.lora_A"),
            (OUTPUT, "nn.functional.linear(x, weight, self.base.bias)"),
        ],
        "builds the update transposed": [
            (NARROW, "update = self.lora_A.T @ self.lora_B.T"),
            (OUTPUT, "self.base(x) + self.scaling * x @ update"),
        ],
        "keeps the base under another name": [
            ("self.base = base", "self.inner = base"),
            ("self.base(x)", "self.inner(x)"),
        ],
        "copies the base": [("self.base = base", "self.base = base = copy.deepcopy(base)")],
        "no gradient through the base": [
            (
                "return self.base(x)",
                "with torch.no_grad():\n            plain = self.base(x)\n        return plain",
            ),
        ],
        "no gradient to x through the factors": [("narrow = x @", "narrow = x.detach() @")],
    },
    "apply_lora": {
        "matches the end of a name": [(MATCH, "path.endswith(tuple(targets))")],
        "freezes nothing": [("parameter.requires_grad = False", "pass")],
        "total without the adapter": [
            ("return trainable, total", "return trainable, total - trainable"),
        ],
        "silent when nothing matches": [(REFUSAL, "return 0, 0")],
        "an error without the names": [(REFUSAL, 'raise ValueError("no linear layer matches")')],
        "an error with the first name only": [(REFUSAL, "raise ValueError(targets[0])")],
        "a KeyError with the names": [("raise ValueError(", "raise KeyError(")],
        "misses a layer at the top": [(MATCH, 'path.endswith(tuple(f".{t}" for t in targets))')],
    },
    "merge_weight": {
        "adds in the weight's dtype": [
            (ADD, "weight + (scaling * lora_B @ lora_A).to(weight.dtype)"),
        ],
        "forgets the scaling": [(", alpha=scaling)", ", alpha=math.copysign(1, scaling))")],
        "returns float32": [("return exact.to(weight.dtype)", "return exact")],
        "changes the weight in place": [
            ("return exact.to(weight.dtype)", "return weight.copy_(exact)"),
        ],
    },
    "diagnose": {
        "never probes the scaling": [('"healthy" if close else "wrong_scaling"', '"healthy"')],
        "takes a zero B for a dead adapter": [(IS_DEAD, "layer.lora_B.count_nonzero() == 0")],
        "leaves its probe behind": [("twin = copy.deepcopy(layer)", "twin = layer")],
        "looks at the base's weight only": [
            (
                "any(p.requires_grad for p in layer.base.parameters())",
                "layer.base.weight.requires_grad",
            ),
        ],
        "takes a zero B for the identity, and no other": [
            ("not torch.allclose(layer(x), layer.base(x), atol=1e-5)", "layer.lora_B.any()"),
        ],
        "takes a zero A for a dead adapter": [(IS_DEAD, "layer.lora_A.count_nonzero() == 0")],
        "freezes the base it looks at": [
            (
                'return "base_trains"',
                'layer.base.requires_grad_(False)\n        return "base_trains"',
            ),
        ],
        "leaves gradients behind": [
            ("with torch.no_grad():", "layer(x).sum().backward()\n    with torch.no_grad():"),
        ],
    },
    "train_step": {
        "no shift": [
            ("model(ids)[:, :-1]", "model(ids)"),
            ("logits, labels[:, 1:]", "logits, labels"),
        ],
        "mean of means": [
            (
                BACKWARD,
                f"summed *= counted / max(1, {COUNT}) / len(micro_batches)\n        {BACKWARD}",
            ),
        ],
        "zero_grad inside the loop": [(LOOP, f"{LOOP}\n        optimizer.zero_grad()")],
        "stale gradients": [("optimizer.zero_grad()", "")],
        "never clips": [(CLIP, "")],
        "clips each group by its own norm": [
            (CLIP, "for group in groups:\n        nn.utils.clip_grad_norm_(group, clip_norm)"),
        ],
        "weighs means, of which one is nan": [
            ('reduction="sum"\n        )', f'reduction="mean"\n        ) * {COUNT}'),
        ],
        "one backward for all": ONE_BACKWARD,
        "pads all into one batch": [("optimizer.zero_grad()", ONE_BATCH)],
    },
}
