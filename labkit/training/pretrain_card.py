"""What a pretraining run leaves beside the weights: its curve and a card of measured values."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labkit.data.batch import IGNORE_INDEX, TokenBatch
from labkit.model.config import ModelConfig
from labkit.runtime.cache import atomic_path
from labkit.runtime.records import hardware
from labkit.training.forward import causal_lm_loss
from labkit.training.loop import StepRecord
from labkit.training.pretrain_data import Source, corpus_hash, plain_texts

CURVE_POINTS = 200
EVALUATION_ROWS = 64


class RunLog:
    """All step records of a run in one JSON-lines file, across its resumed parts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def recorded(self, records: Iterator[StepRecord]) -> Iterator[StepRecord]:
        """Pass records on, each on disk first.

        Records after the checkpoint a run resumed from are dropped: those steps are taken again.
        """
        for number, record in enumerate(records):
            if number == 0:
                kept = [row for row in self.rows() if row["step"] < record.step]
                self._write(kept)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(record)) + "\n")
            yield record

    def rows(self) -> list[dict[str, Any]]:
        """The records so far, as dictionaries."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def write_curve(self, path: Path) -> None:
        """At most ``CURVE_POINTS`` lines, each the mean over the steps it stands for."""
        rows = self.rows()
        width = max(1, -(-len(rows) // CURVE_POINTS))
        lines = [_mean_row(rows[start : start + width]) for start in range(0, len(rows), width)]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))


@torch.no_grad()
def held_out_loss(model: nn.Module, rows: Sequence[TokenBatch]) -> dict[str, float]:
    """Mean next-token loss over the first packed rows.

    Args:
        model: On the CPU.
        rows: Packed rows of one source.

    Returns:
        ``loss_nats`` and ``perplexity`` a token, and the number of ``tokens`` they are over.
    """
    total, tokens = 0.0, 0
    for row in rows[:EVALUATION_ROWS]:
        loss_sum, count = causal_lm_loss(model, row)
        total += loss_sum.item()
        tokens += count
    mean = total / tokens
    return {"loss_nats": mean, "perplexity": math.exp(mean), "tokens": tokens}


def write(
    out: Path,
    preset: str,
    plan: Mapping[str, Any],
    corpus: Sequence[Source],
    train_rows: Mapping[str, Sequence[TokenBatch]],
    log: RunLog,
    held_out: Mapping[str, Mapping[str, float]],
) -> None:
    """Write ``card.json`` and, in words, ``README.md``.

    Args:
        out: The model's folder.
        preset: Name of the recipe.
        plan: The recipe as a dictionary.
        corpus: The sources it drew from.
        train_rows: Their packed rows by name, to count tokens.
        log: All records of the run.
        held_out: :func:`held_out_loss` by source.
    """
    rows = log.rows()
    card = {
        "preset": preset,
        "command": f"labkit pretrain --preset {preset}",
        "recipe": plan,
        "parameters": ModelConfig(**plan["model"]).num_parameters,
        "corpus_sha256": corpus_hash(corpus),
        "packages": _versions(plan["data"]["libraries"]),
        "hardware": hardware(),
        "steps": len(rows),
        "tokens": sum(row["tokens"] for row in rows),
        "seconds": sum(row["seconds"] for row in rows),
        "final_loss_nats": _mean_row(rows[-CURVE_POINTS:])["loss_nats"],
        "sources": [
            _source_row(source, train_rows[source.name], held_out[source.name]) for source in corpus
        ],
    }
    with atomic_path(out / "card.json") as temporary:
        temporary.write_text(json.dumps(card, indent=1) + "\n")
    with atomic_path(out / "README.md") as temporary:
        temporary.write_text(_readme(card))


def _source_row(
    source: Source, rows: Sequence[TokenBatch], held_out: Mapping[str, float]
) -> dict[str, Any]:
    return {
        "name": source.name,
        "licence": source.licence,
        "share": source.share,
        "documents": len(source.train),
        "bytes": sum(len(text.encode()) for text in plain_texts(source.train)),
        "predicted_tokens": sum(int((row.labels != IGNORE_INDEX).sum()) for row in rows),
        "held_out_documents": len(source.held_out),
        "held_out": dict(held_out),
    }


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {name: metadata.version(name) for name in packages}


def _mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Loss by token, gradient norm by step; step and rate of the last one; sums of the rest."""
    tokens = sum(row["tokens"] for row in rows)
    return {
        "step": rows[-1]["step"],
        "loss_nats": round(sum(row["loss_nats"] * row["tokens"] for row in rows) / tokens, 5),
        "tokens": tokens,
        "grad_norm": round(sum(row["grad_norm"] for row in rows) / len(rows), 5),
        "lr": rows[-1]["lr"],
        "seconds": round(sum(row["seconds"] for row in rows), 3),
    }


def _readme(card: Mapping[str, Any]) -> str:
    model, train, data = (card["recipe"][part] for part in ("model", "train", "data"))
    machine = card["hardware"]
    packages = "".join(f", {name} {version}" for name, version in card["packages"].items())
    return f"""# {card["preset"]}

A Llama-shaped language model that this course pretrains itself, for labs that must finish in
seconds. It knows how Python documentation sounds, and has met invented people and small sums; it is
no assistant. Written by `{card["command"]}`, and the numbers below were measured by it;
`card.json` holds them for programs.

## Model

- {model["num_layers"]} layers, width {model["width"]}, FFN width {model["ffn_width"]},
  {model["num_heads"]} heads over {model["num_kv_heads"]} key/value heads of width
  {model["head_width"]}, vocabulary {model["vocab_size"]}, tied embeddings: {card["parameters"]:,}
  parameters in bfloat16. Licence: Apache-2.0.
- Byte-level BPE of `labkit.data.bpe`, trained on the training documents.
- Chats are ChatML (`<|im_start|>role`, `<|im_end|>`); plain documents end in `<|endoftext|>`.
- Trained on rows of {data["length"]} tokens; documents packed in a row do not see each other.

## Data

| source | licence | share | documents | bytes of text | predicted tokens | held-out documents |
|---|---|---|---|---|---|---|
{_table(card, "name licence share documents bytes predicted_tokens held_out_documents")}

- `share` is the source's part of the batch rows.
- Read from Python {machine["python"]}{packages}. Corpus SHA-256
  `{card["corpus_sha256"]}`: other versions give another corpus, and so another model.
- Functions are split by a hash of their name, other texts by a hash of their content; of the facts
  one way to ask for each is kept back. Neither model nor tokenizer saw the held-out part.

## Training

- {card["steps"]} steps of {card["recipe"]["batch_size"] * train["accumulation"]} packed rows:
  {card["tokens"]:,} predicted tokens. Seeds: {train["seed"]} (weights), {data["seed"]} (data).
- AdamW, betas {train["betas"][0]} and {train["betas"][1]}, weight decay {train["weight_decay"]},
  gradient norm at most {train["clip_norm"]}, {train["dtype"]}; peak rate {train["lr"]} after
  {train["warmup_steps"]} steps, cosine to {train["min_lr_ratio"]} of it.
- {card["seconds"]:,.0f} s of steps on {machine["gpu"] or machine["cpu"]},
  {machine["threads"]} thread(s), torch {machine["torch"]}.
- Loss over the last {CURVE_POINTS} steps: {card["final_loss_nats"]:.3f} nats a token. The curve is
  `curve.jsonl`.

## Held-out loss

Of the bfloat16 weights computed in float32, over up to {EVALUATION_ROWS} packed rows a source.

| source | tokens | nats a token | perplexity |
|---|---|---|---|
{_held_out_table(card)}

The documentation of one library repeats itself (inherited methods, shared parameter sections):
compare runs of this recipe by these numbers, not this model with others.
"""


def _table(card: Mapping[str, Any], columns: str) -> str:
    rows = [[source[column] for column in columns.split()] for source in card["sources"]]
    cells = [[f"{v:,}" if isinstance(v, int) else str(v) for v in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _held_out_table(card: Mapping[str, Any]) -> str:
    lines = []
    for source in card["sources"]:
        value = source["held_out"]
        lines.append(
            f"| {source['name']} | {value['tokens']:,} | {value['loss_nats']:.3f} "
            f"| {value['perplexity']:.2f} |"
        )
    return "\n".join(lines)
