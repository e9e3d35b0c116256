"""Speculative decoding of SmolLM2 against plain decoding of the same model, alone on the machine.

Two kinds of text, since the gain depends on it: one that repeats its prompt, and a free one. The
drafters are n-grams and the model's own layers, chosen by a search on text that the model wrote.
Quality gate: in float32 the greedy tokens are those of `generate`. Beside each ratio stand what the
passes accepted and what the formula makes of it with the costs measured here.

Run on an idle machine: python -m benchmarks.speculation
"""

import torch

from benchmarks.peers import OURS, PEER, write_ratio
from labkit.inference.generate import generate
from labkit.inference.sampling import SamplingConfig
from labkit.inference.speculation.cached_model import CachedModel
from labkit.inference.speculation.decode import Speculation, speculate
from labkit.inference.speculation.drafters import Drafter, NgramDrafter
from labkit.inference.speculation.lookahead import LookaheadConfig
from labkit.inference.speculation.rejection import expected_tokens, speedup
from labkit.inference.speculation.skip_layers import SkipLayerDrafter, search_skipped_layers
from labkit.model import zoo
from labkit.model.minillm import MiniLLM
from labkit.runtime.timing import interleave

NEW_TOKENS = 96
ROUNDS = 5
MOST_SKIPPED = 12
CODE = """class Account:
    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        self.balance += amount
"""
TASKS = {
    "repeating": f"Repeat this code exactly as it is:\n\n```python\n{CODE}```",
    "free": "Tell me a story about a lighthouse keeper and the sea.",
}


def pass_costs(model: MiniLLM, tokens: tuple[int, ...]) -> dict[int, float]:
    """Seconds of a pass over each number of tokens, in passes over a single one."""
    reader = CachedModel(model, max_length=256)
    reader.read(range(200))

    def run(T: int) -> None:
        reader.read(range(T))
        reader.truncate(200)

    timings = interleave({str(T): lambda T=T: run(T) for T in tokens}, 15, warmup=3)
    one = timings["1"].median_s
    return {T: timings[str(T)].median_s / one for T in tokens}


def draft_cost(model: MiniLLM, draft: MiniLLM) -> float:
    """Seconds of the draft's pass over one token, in passes of the model."""
    readers = {name: CachedModel(m, max_length=256) for name, m in ((OURS, draft), (PEER, model))}
    for reader in readers.values():
        reader.read(range(200))

    def run(name: str) -> None:
        readers[name].read([5], last_only=True)
        readers[name].truncate(200)

    timings = interleave({name: lambda name=name: run(name) for name in readers}, 15, warmup=3)
    return timings[OURS].median_s / timings[PEER].median_s


def chosen_layers(loaded: zoo.Loaded, prompt: str, extra: float, k: int) -> tuple[int, ...]:
    """The layers whose absence promises most at k proposals, each costing `extra` to verify."""
    config = SamplingConfig(max_new_tokens=128, ignore_eos=True)
    [text] = generate(loaded.model, loaded.tokenizer, prompt, config)
    ids = torch.tensor([loaded.tokenizer.encode(prompt) + text.ids])
    L = loaded.config.num_layers
    choices = list(search_skipped_layers(loaded.model, ids, config, most=MOST_SKIPPED))
    for choice in choices:
        print(f"without {len(choice.skipped)} of {L} layers: acceptance {choice.acceptance:.3f}")
    best = max(
        choices,
        key=lambda c: speedup(c.acceptance, k, cost=1 - len(c.skipped) / L + extra),
    )
    return best.skipped


def gate(loaded: zoo.Loaded, prompt: str, drafter: Drafter, draft_tokens: int) -> None:
    """Stop unless the tokens are `generate`'s."""
    config = SamplingConfig(max_new_tokens=NEW_TOKENS, ignore_eos=True)
    model, tokenizer = loaded.model, loaded.tokenizer
    [ours] = speculate(model, tokenizer, prompt, drafter, config, draft_tokens=draft_tokens)
    if [ours.generation] != generate(model, tokenizer, prompt, config):
        raise SystemExit(f"{drafter.name}: tokens differ, nothing recorded")


def compare(
    loaded: zoo.Loaded,
    task: str,
    prompt: str,
    drafter: Drafter,
    draft_tokens: int | LookaheadConfig,
    temperature: float,
    cost: float,
) -> None:
    """Time both and record the ratio of their rates beside the formula's."""
    config = SamplingConfig(temperature=temperature, max_new_tokens=NEW_TOKENS, ignore_eos=True)
    last: list[Speculation] = []

    def ours() -> None:
        last[:] = speculate(
            loaded.model, loaded.tokenizer, prompt, drafter, config, draft_tokens=draft_tokens
        )

    def plain() -> None:
        generate(loaded.model, loaded.tokenizer, prompt, config)

    timings = interleave({OURS: ours, PEER: plain}, ROUNDS)
    seen = last[0].statistics
    k = draft_tokens if isinstance(draft_tokens, int) else draft_tokens.most
    adaptive = "" if isinstance(draft_tokens, int) else "up to "
    given = seen.proposed / seen.passes  # n-grams often find nothing
    record = write_ratio(
        "speculation",
        timings,
        NEW_TOKENS,
        "tok/s",
        {
            "setting": f"{task}, {drafter.name}, k {adaptive}{k}, T {temperature}",
            "model": "smollm2-135m",
            "dtype": "torch.bfloat16",
            "batch_size": 1,
            "peer": "labkit.generate",
            "acceptance": round(seen.acceptance, 3),
            "tokens_per_pass": round(seen.tokens_per_pass, 3),
            "formula_tokens_per_pass": round(expected_tokens(seen.acceptance, k), 3),
            "cost_of_a_proposal": round(cost, 3),
            "predicted": round(seen.tokens_per_pass / (1 + given * cost), 3),
            "gate": "greedy tokens in float32 are generate's",
        },
    )
    print(record.extra["setting"], record.value, "±", record.spread, record.extra)


def main() -> None:
    tokenizer = zoo.load("smollm2-135m").tokenizer
    prompts = {
        task: tokenizer.apply_chat([{"role": "user", "content": text}])
        for task, text in TASKS.items()
    }
    exact = zoo.load("smollm2-135m", dtype="float32", device="cpu")
    loaded = zoo.load("smollm2-135m", dtype="bfloat16", device="cpu")
    with torch.inference_mode():
        passes = pass_costs(loaded.model, (1, 2, 3, 5, 9, 17))
        print("a pass over T tokens, in passes over one:", passes)
        extra = (passes[5] - 1) / 4
        skipped = chosen_layers(loaded, prompts["free"], extra, k=3)
        for task, prompt in prompts.items():
            gate(exact, prompt, NgramDrafter(), 8)
            gate(exact, prompt, SkipLayerDrafter(exact.model, skipped), 3)
            layers = SkipLayerDrafter(loaded.model, skipped)
            cost = draft_cost(loaded.model, layers.model) + extra
            lookahead = LookaheadConfig(most=12, cost=extra)
            for temperature in (0.0, 1.0):
                for drafter, k, c in (
                    (NgramDrafter(), 4, extra),
                    (NgramDrafter(), 8, extra),
                    (NgramDrafter(), lookahead, extra),
                    (layers, 1, cost),
                    (layers, 3, cost),
                ):
                    compare(loaded, task, prompt, drafter, k, temperature, c)


if __name__ == "__main__":
    main()
