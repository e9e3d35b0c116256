"""Wrong answers to lab 05's questions, as changes of the solution or as another body for it."""

from grader.mutants import Mutants

READ = 'read = outputs if form == "sequential" else inputs'
ADDED = "self.scaling * self.up(torch.relu(self.down(z.float())))"
ZEROS = "for zero in (self.down.bias, self.up.weight, self.up.bias):"
SKIPPED = "nn.utils.skip_init(nn.Linear, read, width)"
MASK = "torch.cat([mask.new_ones(B, P), mask], dim=1)"
POSITIONS = "torch.arange(P + T).expand(B, P + T)"
SCORES = "scores = logits[:, P - 1 : -1].float()"
SHARE = "torch.sigmoid(prefix.logsumexp(-1) - text.logsumexp(-1))"
MIXED = "(1 - gate) * plain + gate * added"
ROWS = "rows = weight * self.scale.unsqueeze(1)"
COLUMNS = "return (weight * self.scale).to(weight.dtype), bias"
SCALED_BIAS = "bias = (bias * self.scale).to(bias.dtype)"
LENGTH = "length = torch.linalg.vector_norm(V, dim=1)[:, None]"
GRAD_V = "grad_V = m / length * grad"
NOW = "now = (w * g).abs()"
SPREAD = "(now - smooth).abs()"
SCORE = "E + A.mean(dim=1) + B.mean(dim=0)"
KEPT = "kept[ranked.topk(budget).indices] = True"
ADAPTER = "one_adapter = 2 * D * size + size + D"

ONE_SOFTMAX = """
    (B, H, T, K), P = q.shape, prefix_k.shape[1]
    keys = torch.cat([prefix_k.expand(B, H, P, K), k], dim=2)
    values = torch.cat([prefix_v.expand(B, H, P, K), v], dim=2)
    hidden = torch.ones(T, P + T, dtype=torch.bool).triu(P + 1)
    scores = (q @ keys.mT / math.sqrt(K)).masked_fill(hidden, -math.inf)
    weights = scores.softmax(-1)
    return weights @ values, weights[..., :P].sum(-1)
"""
RANKED_BY_LAYER = (
    "kept = torch.cat([s >= s.topk(budget // len(scores)).values[-1] for s in scores])"
)
OLD_SMOOTH = [
    ("smooth = beta_1 * smooth", "old_smooth = smooth\n            smooth = beta_1 * smooth"),
    (SPREAD, "(now - old_smooth).abs()"),
]

MUTANTS: Mutants = {
    "adapter": {
        "reads the output beside the layer too": [
            (READ, "read = outputs"),
            ('z = y if self.form == "sequential" else x', "z = y"),
        ],
        "no activation": [(ADDED, "self.scaling * self.up(self.down(z.float()))")],
        "another activation": [("torch.relu(", "torch.nn.functional.gelu(")],
        "scaling leaves the bias out": [
            (ADDED, "self.up(self.scaling * torch.relu(self.down(z.float())))"),
        ],
        "scaling forgotten": [(ADDED, "self.up(torch.relu(self.down(z.float())))")],
        "both projections zero": [
            ("for zero in (", "for zero in (self.down.weight, "),
        ],
        "up-projection drawn": [
            (ZEROS, "nn.init.uniform_(self.up.weight, -bound, bound, generator=generator)\n"
             "        for zero in (self.down.bias, self.up.bias):"),
        ],
        "biases as nn.Linear draws them": [(SKIPPED, "nn.Linear(read, width)"),
                                           ("(self.down.bias, self.up", "(self.up")],
        "draws from the global state": [(SKIPPED, "nn.Linear(read, width)")],
        "global draws for down": [(", generator=generator)", ")")],
        "base trains": [("parameter.requires_grad = False", "pass")],
        "no residual": [("return y + added.to(y.dtype)", "return added.to(y.dtype)")],
        "adapter in the base's dtype": [
            (ADDED, "self.scaling * self.up.to(z.dtype)(torch.relu(self.down.to(z.dtype)(z)))"),
        ],
        "float32 leaves the layer": [("return y + added.to(y.dtype)", "return y + added")],
        "input detached": [("self.down(z.float())", "self.down(z.detach().float())")],
    },
    "prompted_loss": {
        "virtual tokens masked": [(MASK, "torch.cat([mask.new_zeros(B, P), mask], dim=1)")],
        "mask behind instead of before": [(MASK, "torch.cat([mask, mask.new_ones(B, P)], dim=1)")],
        "padding seen": [(MASK, "mask.new_ones(B, P + T)")],
        "positions start again": [
            (POSITIONS, "torch.cat([torch.arange(P), torch.arange(T)]).expand(B, P + T)"),
        ],
        "rows behind the text": [("torch.cat([before, embeddings], dim=1)",
                                  "torch.cat([embeddings, before], dim=1)")],
        "labels not shifted": [(SCORES, "scores = logits[:, P:].float()")],
        "labels shifted twice": [(SCORES, "scores = logits[:, P - 2 : -2].float()")],
        "first token never learnt": [
            (SCORES, "scores = logits[:, P:-1].float()"), ("labels.flatten()",
                                                           "labels[:, 1:].flatten()"),
        ],
        "logits cut at the wrong end": [("return logits[:, P:], loss",
                                         "return logits[:, :T], loss")],
        "mean of the rows' means": [
            ("scores.flatten(0, 1), labels.flatten(), ignore_index=-100",
             "scores.mT, labels, ignore_index=-100, reduction='none'"),
            ("return logits[:, P:], loss",
             "loss = (loss.sum(1) / (labels != -100).sum(1)).mean()\n"
             "    return logits[:, P:], loss"),
        ],
        "rows without gradient": [("rows.to(embeddings.dtype)",
                                   "rows.detach().to(embeddings.dtype)")],
        "rows stay in float32": [("rows.to(embeddings.dtype)", "rows")],
    },
    "prefix_attention": {
        "one softmax over all keys": ONE_SOFTMAX,
        "exponentials overflow": [(SHARE, "prefix.exp().sum(-1)"
                                   " / (prefix.exp().sum(-1) + text.exp().sum(-1))")],
        "share of the text": [(SHARE, SHARE.replace("(prefix.", "(text.", 1).replace(
            "- text.", "- prefix."))],
        "share from the means of scores": [(SHARE, "torch.sigmoid(prefix.mean(-1)"
                                            " - text.softmax(-1).amax(-1))")],
        "share of counts": [
            (SHARE, "torch.sigmoid(math.log(prefix.shape[-1])"
             " - torch.arange(1.0, T + 1).log()).expand(q.shape[:-1])"),
        ],
        "added, not mixed": [(MIXED, "plain + gate * added")],
        "gate without gradient": [("gate = share.unsqueeze(-1)",
                                   "gate = share.detach().unsqueeze(-1)")],
        "text not causal": [(".masked_fill(future, -math.inf)", "")],
        "mask one late": [(".triu(1)", ".triu(2)")],
        "prefix scores not divided": [("q @ prefix_k.mT / math.sqrt(K)", "q @ prefix_k.mT")],
        "divided by K": [("(q @ k.mT / math.sqrt(K))", "(q @ k.mT / K)"),
                         ("q @ prefix_k.mT / math.sqrt(K)", "q @ prefix_k.mT / K")],
    },
    "ia3_linear": {
        "scales the other side": [
            ("if feedforward else base.out_features", "if not feedforward else base.out_features"),
            ("self.base, self.feedforward = base, feedforward",
             "self.base, self.feedforward = base, not feedforward"),
        ],
        "starts at zero": [("torch.ones(size)", "torch.zeros(size)")],
        "one plus the factor": [("y * self.scale)", "y * (1 + self.scale))")],
        "bias left out of the outputs": [
            ("y = self.base(x)\n        return (y * self.scale).to(y.dtype)",
             "y = nn.functional.linear(x, self.base.weight)\n"
             "        y = (y * self.scale).to(y.dtype)\n"
             "        return y if self.base.bias is None else y + self.base.bias"),
        ],
        "merged bias not scaled": [(SCALED_BIAS, "pass")],
        "merged bias lost": [("return rows.to(weight.dtype), bias",
                              "return rows.to(weight.dtype), None")],
        "input's bias scaled": [
            (COLUMNS, "return (weight * self.scale).to(weight.dtype),"
             " None if bias is None else bias * self.scale.mean()"),
        ],
        "columns for rows": [(ROWS, "rows = (weight.reshape(weight.shape[::-1])"
                              " * self.scale).reshape(weight.shape)")],
        "factor rounded first": [
            (ROWS, "rows = weight * self.scale.to(weight.dtype).unsqueeze(1)"),
        ],
        "merged in float32": [("return rows.to(weight.dtype), bias", "return rows, bias")],
        "merges in place": [(ROWS, "rows = weight.data.mul_(self.scale.unsqueeze(1))")],
        "base trains": [("parameter.requires_grad = False", "pass")],
        "float32 leaves the layer": [("return (y * self.scale).to(y.dtype)",
                                      "return y * self.scale")],
    },
    "dora_gradients": {
        "lengths of columns": [(LENGTH, "length = V.norm(dim=0, keepdim=True)")],
        "length of the frozen weight": [(LENGTH, "length = weight.norm(dim=1, keepdim=True)")],
        "scaling forgotten in V": [("weight + scaling * (lora_B @ lora_A)",
                                    "weight + lora_B @ lora_A")],
        "always the true gradient": [("if not norm_is_constant:", "if True:")],
        "always a constant": [("if not norm_is_constant:", "if False:")],
        "the wrong way round": [("if not norm_is_constant:", "if norm_is_constant:")],
        "length squared": [(GRAD_V, "grad_V = m / length**2 * grad")],
        "m forgotten": [(GRAD_V, "grad_V = grad / length")],
        "projects onto the direction": [("grad_V = grad_V - along * direction",
                                         "grad_V = along * direction")],
        "magnitude's gradient over V": [("(grad * direction).sum(dim=1)", "(grad * V).sum(dim=1)")],
        "gradients without scaling": [("scaling * (lora_B.T @ grad_V)", "lora_B.T @ grad_V")],
        "A moved in place": [("V = weight + scaling * (lora_B @ lora_A)",
                              "V = weight.add_(scaling * (lora_B @ lora_A))")],
    },
    "reallocate": {
        "gradient alone": [(NOW, "now = g.abs()")],
        "weight alone": [(NOW, "now = w.abs()")],
        "sign kept": [(NOW, "now = w * g")],
        "betas swapped": [("smooth = beta_1 * smooth + (1 - beta_1) * now",
                           "smooth = beta_2 * smooth + (1 - beta_2) * now")],
        "not smoothed": [("smooth = beta_1 * smooth + (1 - beta_1) * now", "smooth = now")],
        "distance from the old mean": OLD_SMOOTH,
        "squares for distances": [(SPREAD, "(now - smooth).square()")],
        "sensitivity alone": [("[smooth * spread for", "[smooth for")],
        "sums over rows": [(SCORE, "E + A.sum(dim=1) + B.sum(dim=0)")],
        "the value alone": [(SCORE, "E")],
        "a budget for each layer": [(KEPT, RANKED_BY_LAYER)],
        "keeps the worst": [(KEPT, "kept[ranked.topk(budget, largest=False).indices] = True")],
        "everything stays": [(KEPT, "kept[:] = True")],
        "memory not returned": [("return updated,", "return memory,")],
    },
    "trained_numbers": {
        "query heads for keys": [("keys = H * K, G * K", "keys = H * K, H * K")],
        "width for heads": [("queries, keys = H * K", "queries, keys = D")],
        "prefix without values": [("L * 2 * keys * size", "L * keys * size")],
        "prefix in one layer": [("L * 2 * keys * size", "2 * keys * size")],
        "adapter without biases": [(ADAPTER, "one_adapter = 2 * D * size")],
        "one adapter a layer": [("L * 2 * one_adapter", "L * one_adapter")],
        "factors on outputs of down_proj": [("2 * keys + F", "2 * keys + D")],
        "DoRA without lengths": [("both * size + outputs", "both * size")],
        "AdaLoRA without values": [("L * (both + len(shapes)) * size", "L * both * size")],
        "biases of inputs": [('"bitfit": L * outputs', '"bitfit": L * (both - outputs)')],
    },
    "diagnose": {
        "no zeros": [("zeros = torch.zeros(1, width)", "zeros = torch.ones(1, width)")],
        "exports not compared": [("if not same(adapted(zeros, 1000), exported(zeros, 1000)):",
                                  "if False:")],
        "no two equal tokens": [("x[1] = x[0]", "pass")],
        "dropout not looked for": [("if not same(now[0], now[1]):", "if False:")],
        "future not looked for": [("if not same(now[:1], adapted(x[:1], 1000)):", "if False:")],
        "never trained": [("now = adapted(x, 1000)", "now = adapted(x, 0)")],
        "dead means no change at all": [("same(moved[0], moved[2])",
                                         "same(moved, torch.zeros_like(moved))")],
        "looks before training": [("adapted(zeros, 1000), exported(zeros, 1000)",
                                   "adapted(zeros, 0), exported(zeros, 0)")],
    },
}  # fmt: skip
