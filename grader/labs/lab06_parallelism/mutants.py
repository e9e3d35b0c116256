"""Wrong answers to lab 06's questions, as changes of the solution or as another body for it."""

from grader.mutants import Mutants

RING = "below, above = (rank - 1) % n, (rank + 1) % n"
CHUNKS = "[chunk.clone() for chunk in x.flatten().tensor_split(n)]"
FIRST_SENT = "send(chunks[(rank + 1 + step) % n], below)"
FIRST_TAKEN = "chunks[(rank + 2 + step) % n] += receive(above)"
SECOND_SENT = "send(chunks[(rank + step) % n], below)"
SECOND_TAKEN = "chunks[(rank + step + 1) % n] = receive(above)"
FULL = "filled + sizes[number] > bucket_bytes"
READY = "ready = max(ready_ms[number] for number in bucket)"
MESSAGE = "latency_ms + nbytes / n / bytes_per_ms"
PART = "part = sum(math.ceil(unit / n) for unit in units)"
ROWS = "torch.cat([gate.chunk(n)[rank], up.chunk(n)[rank]])"
DOWN = "down.detach().chunk(n, dim=1)[rank]"
OUTPUT = "Leave.apply(hidden @ self.down.T) + self.bias"
HOOK = "entered.register_hook(all_reduce)"
SCORES = "logits.masked_fill(columns >= vocab_size, -math.inf)"
TOP = 'all_reduce(scores.amax(dim=1), "max")'
PICKED = "torch.where(is_target, logits, 0.0).sum(dim=1)"
MAY_HOLD = "forwards - backwards < p - rank"
DRIFTS = "if moved.max() - moved.min() > 0.5:"

EVERYTHING_TO_EVERYBODY = """
    others = [other for other in range(n) if other != rank]
    for other in others:
        send(x, other)
    total = x.clone()
    for other in others:
        total += receive(other)
    return total.flatten().tensor_split(n)[rank], total
"""
WHOLE_TENSORS = """
    below, above = (rank - 1) % n, (rank + 1) % n
    total, passing = x.clone(), x
    for _ in range(n - 1):
        send(passing, below)
        passing = receive(above)
        total += passing
    return total.flatten().tensor_split(n)[rank], total
"""
WAITS_FIRST = """
    chunks = [chunk.clone() for chunk in x.flatten().tensor_split(n)]
    for step in range(n - 1):
        chunks[(rank + 2 + step) % n] += receive((rank + 1) % n)
        send(chunks[(rank + 1 + step) % n], (rank - 1) % n)
    return chunks[rank], torch.cat(chunks).view_as(x)
"""
OUT_OF_ORDER = """
    buckets, filled = [], 0
    for number in reversed(range(len(sizes))):
        if not buckets or filled + sizes[number] > bucket_bytes:
            buckets.append([])
            filled = 0
        buckets[-1].append(number)
        filled += sizes[number]
    ready = [max(ready_ms[number] for number in bucket) for bucket in buckets]
    spans, free = [(0.0, 0.0)] * len(buckets), 0.0
    for place in sorted(range(len(buckets)), key=lambda place: ready[place]):
        nbytes = sum(sizes[number] for number in buckets[place])
        start = max(free, ready[place])
        free = start + 2 * (n - 1) * (latency_ms + nbytes / n / bytes_per_ms)
        spans[place] = (start, free)
    return buckets, spans
"""
GATHERED_BY_ADDING = """
    N, own = logits.shape
    whole = torch.zeros(N, vocab_size)
    inside = max(0, min(own, vocab_size - start))
    whole[:, start : start + inside] = logits[:, :inside]
    whole = all_reduce(whole, "sum")
    losses = nn.functional.cross_entropy(whole, targets, reduction="none")
    gradient = torch.zeros_like(logits)
    columns = torch.arange(start, start + inside)
    one_hot = (columns == targets.unsqueeze(1)).float()
    gradient[:, :inside] = whole.softmax(1)[:, start : start + inside] - one_hot
    gradient[targets == -100] = 0.0
    return losses, gradient
"""
GPIPE = """
    forwards = [f"F{number}" for number in range(m)]
    backwards = [f"B{number}" for number in range(m)]
    return forwards + backwards, m, (p - 1) / (m + p - 1)
"""
LATE_ALTERNATION = """
    ahead = p - 1 - rank
    actions = [f"F{number}" for number in range(min(ahead, m))]
    for number in range(m):
        actions.append(f"F{number + ahead}")
        actions.append(f"B{number}")
    return actions, p - rank, (p - 1) / (m + p - 1)
"""

MUTANTS: Mutants = {
    "ring_all_reduce": {
        "upwards": [(RING, "below, above = (rank + 1) % n, (rank - 1) % n")],
        "rank r finishes chunk r - 1": [
            (SECOND_SENT, "send(chunks[(rank - 1 + step) % n], below)"),
            (SECOND_TAKEN, "chunks[(rank + step) % n] = receive(above)"),
            (FIRST_SENT, "send(chunks[(rank + step) % n], below)"),
            (FIRST_TAKEN, "chunks[(rank + 1 + step) % n] += receive(above)"),
        ],
        "everything to everybody": EVERYTHING_TO_EVERYBODY,
        "whole tensors around": WHOLE_TENSORS,
        "waits before it sends": WAITS_FIRST,
        "adds into x": [(CHUNKS, "list(x.view(-1).tensor_split(n))")],
        "replaces instead of adding": [(FIRST_TAKEN, FIRST_TAKEN.replace("+=", "="))],
        "adds in the all-gather": [(SECOND_TAKEN, SECOND_TAKEN.replace(" = ", " += "))],
        "flat": [("torch.cat(chunks).view_as(x)", "torch.cat(chunks)")],
        "a mean": [("torch.cat(chunks).view_as(x)", "torch.cat(chunks).view_as(x) / n")],
        "own part alone": [("own = chunks[rank]", "own = x.flatten().tensor_split(n)[rank]")],
        "equal chunks only": [("tensor_split(n)]", "split(max(1, x.numel() // n))]")],
    },
    "bucket_timeline": {
        "the model's order": [("reversed(range(len(sizes)))", "range(len(sizes))")],
        "never exactly full": [(FULL, FULL.replace(">", ">="))],
        "one too many": [(FULL, "filled > bucket_bytes")],
        "leaves at the first gradient": [(READY, READY.replace("max(", "min("))],
        "leaves at the bucket's last parameter": [(READY, "ready = ready_ms[bucket[-1]]")],
        "the network carries all at once": [("start = max(free, ready)", "start = ready")],
        "whoever is ready first": OUT_OF_ORDER,
        "one latency": [
            (MESSAGE, "nbytes / n / bytes_per_ms"),
            ("2 * (n - 1) * message_ms", "latency_ms + 2 * (n - 1) * message_ms"),
        ],
        "the whole bucket a message": [(MESSAGE, MESSAGE.replace(" / n /", " /"))],
        "half an all-reduce": [("2 * (n - 1) * message_ms", "(n - 1) * message_ms")],
        "filled over and over": [("            filled = 0\n", "")],
    },
    "zero_bill": {
        "float32 gradients": [("gradients = 2 * (", "gradients = 4 * (")],
        "no master weights": [("optimizer = 12 * (", "optimizer = 8 * (")],
        "no padding": [(PART, "part = sum(units) // n")],
        "padded as one unit": [(PART, "part = math.ceil(sum(units) / n)")],
        "gradients whole in stage 2": [("stage >= 2", "stage >= 3")],
        "optimizer whole in stage 1": [("stage >= 1", "stage >= 2")],
        "frozen parameters divided": [("+ 2 * frozen", "+ 2 * frozen // n")],
        "frozen parameters forgotten": [(" + 2 * frozen", "")],
        "frozen parameters sent": [
            ("2 * (n - 1) * part", "2 * (n - 1) * (part + frozen // n)"),
        ],
        "stage 2 reduces once": [("2: m + 1", "2: 2")],
        "stage 2 gathers every time": [("2: m + 1", "2: 2 * m")],
        "stage 3 gathers once a step": [("3: 3 * m", "3: m + 2")],
        "stage 3 keeps the forward's weights": [("3: 3 * m", "3: 2 * m")],
        "stage 1 reduces every time": [("1: 2,", "1: m + 1,")],
        "sends to itself": [("2 * (n - 1) * part", "2 * n * part")],
    },
    "parallel_ffn": {
        "all gates on one rank": [(ROWS, "gate_up.detach().chunk(n)[rank].clone()")],
        "down by rows": [(DOWN, "down.detach().T.reshape(down.shape).chunk(n, dim=1)[rank]")],
        "down of another rank": [(DOWN, DOWN.replace("[rank]", "[rank - 1]"))],
        "keeps the whole matrix": [("nn.Parameter(columns.clone())", "nn.Parameter(columns)")],
        "bias on every rank": [(OUTPUT, "Leave.apply(hidden @ self.down.T + self.bias)")],
        "bias on rank 0": [("bias.detach().clone()", "bias.detach() * (rank == 0)")],
        "no sum forward": [(OUTPUT, "hidden @ self.down.T + self.bias")],
        "sum that autograd cannot pass": [
            (OUTPUT, "all_reduce(hidden @ self.down.T) + self.bias"),
        ],
        "no sum backward": [(HOOK, "pass")],
        "sums the gradient twice": [("return gradient", "return all_reduce(gradient)")],
        "sums the gradient at the wrong end": [
            (HOOK, "pass"), ("return gradient", "return all_reduce(gradient)"),
        ],
        "gate and up swapped": [("gate, up = (entered", "up, gate = (entered")],
        "x detached": [("entered = x.view_as(x)", "entered = x.detach()")],
    },
    "parallel_cross_entropy": {
        "own maximum": [(TOP, "scores.amax(dim=1)")],
        "own maximum, finite": [(TOP, "scores.amax(dim=1).clamp(min=-1e4)")],
        "sum of maxima": [(TOP, TOP.replace('"max"', '"sum"'))],
        "exponentials overflow": [(TOP, "torch.zeros(len(logits))")],
        "padding counts": [(SCORES, "logits")],
        "padding times 0": [(SCORES, "logits * (columns < vocab_size)")],
        "no start": [("start + torch.arange", "torch.arange")],
        "a product as a mask": [(PICKED, "(logits * is_target).sum(dim=1)")],
        "the target's logit stays at home": [('all_reduce(picked, "sum")', "picked")],
        "own sum": [('all_reduce(weights.sum(dim=1), "sum")', "weights.sum(dim=1)")],
        "ignored targets counted": [("(targets != -100).float()", "torch.ones(len(targets))")],
        "softmax as gradient": [(" - is_target.float()", "")],
        "mean over tokens": [
            ("return losses * counted", "counted = counted / counted.sum()\n"
             "    return losses * counted"),
        ],
        "gathers the logits": GATHERED_BY_ADDING,
    },
    "pipeline_schedule": {
        "GPipe": GPIPE,
        "alternates beyond the end": LATE_ALTERNATION,
        "one less ahead": [(MAY_HOLD, "forwards - backwards < max(1, p - rank - 1)")],
        "one more ahead": [(MAY_HOLD, "forwards - backwards < p - rank + 1")],
        "every stage as the first": [(MAY_HOLD, "forwards - backwards < p")],
        "upside down": [(MAY_HOLD, "forwards - backwards < rank + 1")],
        "holds what is there at the end": [("max(held, forwards - backwards)", "p - rank")],
        "a share of the ideal time": [("(p - 1) / (m + p - 1)", "(p - 1) / m")],
        "two bubbles": [("(p - 1) / (m + p - 1)", "2 * (p - 1) / (m + 2 * (p - 1))")],
        "idle by stage": [("(p - 1) / (m + p - 1)", "(p - 1 - rank) / (m + p - 1)")],
    },
    "diagnose": {
        "probes rank 0": [("rank, micro = n - 1, m - 1", "rank, micro = 0, m - 1")],
        "probes the first micro-batch": [
            ("rank, micro = n - 1, m - 1", "rank, micro = n - 1, 0"),
        ],
        "looks at rank 0 alone": [(DRIFTS, "if False:")],
        "never starts from zeros": [
            ("if step(start, x, y).abs().max() > 1e-6:", "if False:"),
        ],
        "forgets that it is a mean": [("y[rank, micro] = n * m", "y[rank, micro] = 1")],
        "never doubts the scale": [('"summed" if moved[0] > 1.5 else "healthy"', '"healthy"')],
    },
}  # fmt: skip
