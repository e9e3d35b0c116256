"""Answers to lab 03 by two who worked alone; helpers, and the same helpers in disguise."""

ADA = {
    "lora_delta": """
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    r = lora_A.size(0)
    if use_rslora:
        s = alpha / r**0.5
    else:
        s = alpha / r
    return s * lora_B @ lora_A
""",
    "merge_weight": """
def merge_weight(weight, lora_A, lora_B, scaling):
    update = scaling * (lora_B @ lora_A)
    return (weight.float() + update).to(weight.dtype)
""",
    "apply_lora": """
def apply_lora(model, make_layer, targets):
    for p in model.parameters():
        p.requires_grad_(False)
    count = 0
    for name, child in list(model.named_modules()):
        for key, layer in list(child.named_children()):
            if isinstance(layer, nn.Linear) and key in targets:
                setattr(child, key, make_layer(layer))
                count += 1
    if count == 0:
        raise ValueError("none of the targets " + str(targets) + " is a linear layer")
    all_ = sum(p.numel() for p in model.parameters())
    return sum(p.numel() for p in model.parameters() if p.requires_grad), all_
""",
    "train_step": """
def train_step(model, micro_batches, optimizer, clip_norm):
    optimizer.zero_grad(set_to_none=True)
    n = sum(int((y[:, 1:] != -100).sum()) for _, y in micro_batches)
    total = 0.0
    for x, y in micro_batches:
        out = model(x)
        logp = torch.log_softmax(out[:, :-1], dim=-1)
        t = y[:, 1:]
        keep = t != -100
        nll = -logp.gather(-1, t.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        loss = nll[keep].sum() / n
        loss.backward()
        total = total + float(loss.detach())
    params = []
    for g in optimizer.param_groups:
        params.extend(g["params"])
    torch.nn.utils.clip_grad_norm_(params, clip_norm)
    optimizer.step()
    return total
""",
}
BEN = {
    "lora_delta": """
def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    rank = len(lora_A)
    delta = torch.matmul(lora_B, lora_A)
    return delta * alpha / (math.sqrt(rank) if use_rslora else rank)
""",
    "merge_weight": """
def merge_weight(weight, lora_A, lora_B, scaling):
    merged = weight.to(torch.float32) + scaling * lora_B @ lora_A
    return merged.type_as(weight)
""",
    "apply_lora": """
def apply_lora(model, make_layer, targets):
    model.requires_grad_(False)
    hits = [n for n, m in model.named_modules()
            if isinstance(m, nn.Linear) and n.rpartition(".")[2] in targets]
    if len(hits) < 1:
        raise ValueError(f"nothing to adapt: {targets}")
    for n in hits:
        parent, _, last = n.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, last, make_layer(getattr(owner, last)))
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(s for s, g in sizes if g), sum(s for s, _ in sizes)
""",
    "train_step": """
def train_step(model, micro_batches, optimizer, clip_norm):
    labels_seen = torch.cat([b[1][:, 1:].flatten() for b in micro_batches])
    denominator = labels_seen.ne(-100).sum()
    optimizer.zero_grad()
    losses = []
    for batch in micro_batches:
        ids, labels = batch
        logits = model(ids)
        shifted = logits[:, :-1, :].reshape(-1, logits.size(-1))
        ce = F.cross_entropy(shifted, labels[:, 1:].reshape(-1), reduction="none")
        part = ce.sum() / denominator
        part.backward()
        losses.append(part.item())
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], max_norm=clip_norm)
    optimizer.step()
    return sum(losses)
""",
}
HELPERS = '''
def counted(batches):
    """Tokens that count."""
    return sum(int((y[:, 1:] != -100).sum()) for _, y in batches)


def one_loss(model, x, y, n):
    out = model(x)
    logp = torch.log_softmax(out[:, :-1], dim=-1)  # (B, T - 1, V)
    t = y[:, 1:]
    keep = t != -100
    nll = -logp.gather(-1, t.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return nll[keep].sum() / n


class Meter:
    def __init__(self):
        self.total = 0.0

    def add(self, value):
        self.total += float(value.detach())
'''
DISGUISED = """
import torch as th
class Sums:
    # keeps what it is given
    def __init__(me):
        me.so_far = 0
    def push(me, new):
        me.so_far += float(new.detach())

def part(net, ids, wanted, many):
    '''My own words.'''
    logits = net(ids)
    lp = th.log_softmax(logits[:, :-1],
                        dim=-1)
    w = wanted[:, 1:]; ok = w != -1_00
    l = -lp.gather(-1, w.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return l[ok].sum() / many

def how_many(data): return sum(int((q[:, 1:] != -100).sum()) for _, q in data)
"""
