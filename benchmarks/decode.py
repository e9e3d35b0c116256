"""Greedy decoding of SmolLM2 against `transformers.generate`, at batch 1 and 8.

Quality gate: in float32 both must produce the same tokens; in bfloat16, where rounding differs, the
first token of every prompt must agree.

Run on an idle machine: python -m benchmarks.decode
"""

import torch

from benchmarks.peers import OURS, PEER, same_model, write_ratio
from labkit.inference.generate import generate_ids
from labkit.inference.sampling import SamplingConfig
from labkit.runtime.timing import interleave

NEW_TOKENS = 48
PROMPT = "The documentation of Python's standard library says that"
ROUNDS = 5


def compare(batch_size: int, dtype: torch.dtype) -> None:
    """Time both on the same prompts and record the ratio of their rates."""
    with same_model(dtype) as (ours, peer):
        texts = [f"{PROMPT} number {row}" for row in range(batch_size)]
        ids = torch.tensor([ours.tokenizer.encode(text) for text in texts])
        config = SamplingConfig(max_new_tokens=NEW_TOKENS, ignore_eos=True)

        def labkit() -> torch.Tensor:
            return generate_ids(ours.model, ids, config)

        def transformers() -> torch.Tensor:
            out = peer.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                eos_token_id=None,
                pad_token_id=ours.tokenizer.pad_id,
            )
            return out[:, ids.shape[1] :]

        with torch.inference_mode():
            checked = NEW_TOKENS if dtype == torch.float32 else 1
            if not torch.equal(labkit()[:, :checked], transformers()[:, :checked]):
                raise SystemExit(f"batch {batch_size}, {dtype}: tokens differ, nothing recorded")
            timings = interleave({OURS: labkit, PEER: transformers}, ROUNDS)
    record = write_ratio(
        "decode",
        timings,
        batch_size * NEW_TOKENS,
        "tok/s",
        {
            "model": "smollm2-135m",
            "dtype": str(dtype),
            "batch_size": batch_size,
            "new_tokens": NEW_TOKENS,
            "peer": "transformers.generate",
            "gate": f"the first {checked} tokens of every row are equal",
        },
    )
    print(f"batch {batch_size}, {dtype}: {record.value} ± {record.spread}, {record.extra['rates']}")


if __name__ == "__main__":
    for dtype in (torch.float32, torch.bfloat16):
        for batch_size in (1, 8):
            compare(batch_size, dtype)
