"""Three tuned adapters behind two servers, ours and vLLM's, asked the same over HTTP.

Both servers run at once and are asked in turn, so that what else the machine does meets both:

- `adapter_agreement`: share of greedy tokens that are equal, by adapter (float32 on both sides);
- `adapter_load`: milliseconds of POST /v1/load_lora_adapter, which both know;
- `adapter_rate`: tokens a second of 8 requests together, all to the base, or two to each adapter
  and two to the base.

Needs `.venv-vllm` (`make vllm`). Run on an idle machine:

    python -m benchmarks.adapters_vllm float32
    python -m benchmarks.adapters_vllm bfloat16
"""

import copy
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.contenders import VLLM, VLLM_ENV
from labkit.data import batch, chat, domains, pydoc_corpus, questions
from labkit.inference.engine_config import EngineConfig
from labkit.model import huggingface, zoo
from labkit.runtime.records import Record, append_record
from labkit.runtime.seeding import generator
from labkit.serving import server
from labkit.serving.backends import vllm_process
from labkit.serving.config import ServingConfig
from labkit.training import loop
from labkit.training.config import TrainConfig
from labkit.tuning import adapter_files, lora

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
TENANTS = {
    "finance": lora.LoraConfig(rank=8, alpha=16.0, target_modules="all-linear"),
    "medical": lora.LoraConfig(rank=16, alpha=32.0, target_modules=ATTENTION),
    "python": lora.LoraConfig(rank=4, alpha=8.0, target_modules="all-linear"),
}
STEPS, ROWS, LR = 6, 3, 2e-3
NEW_TOKENS, QUESTIONS, ROUNDS, TOGETHER = 16, 3, 3, 8
RECORDS = Path(__file__).parents[1] / "datasets/multi_adapter/records.jsonl"
OURS, THEIRS = "labkit", "vLLM"


def conversations() -> dict[str, list[list[chat.Message]]]:
    """Of each trade; the first `QUESTIONS` are asked, the others are learnt."""
    rng = np.random.default_rng(0)
    known, held = pydoc_corpus.split(pydoc_corpus.functions(("math", "os", "random")))
    return {
        "finance": domains.finance(120, rng),
        "medical": domains.medical(120, rng),
        "python": questions.question_answers([*held[:QUESTIONS], *known]),
    }


def tune(llm: zoo.Loaded, chats: dict[str, list[list[chat.Message]]], root: Path) -> None:
    """Write an adapter for each trade under the root."""
    for tenant, config in TENANTS.items():
        model = lora.apply(copy.deepcopy(llm.model), config, generator=generator(0))
        examples = [chat.encode_chat(llm.tokenizer, talk) for talk in chats[tenant][QUESTIONS:]]
        source = batch.batches(
            [example for example in examples if len(example.ids) < 120],
            batch_size=ROWS,
            pad_id=llm.tokenizer.pad_id,
            generator=generator(0),
        )
        list(loop.train(model, source, TrainConfig(steps=STEPS, lr=LR)))
        adapter_files.save(model, root / tenant, config)
        print(f"tuned {tenant}", flush=True)


@contextmanager
def our_server(llm: zoo.Loaded, root: Path, dtype: str) -> Iterator[str]:
    """The engine with the model's modules in float32, or with the packed 16-bit weights."""
    sizes = EngineConfig(
        weights="model" if dtype == "float32" else "bfloat16",
        max_batch=TOGETHER,
        max_adapters=len(TENANTS),
        prefix_cache=False,
    )
    running = server.build_server(
        llm, base_name="base", engine=sizes, config=ServingConfig(adapters_root=root)
    )
    with server.listen("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            url = f"http://127.0.0.1:{bound.getsockname()[1]}"
            wait(url)
            yield url
        finally:
            running.should_exit = True
            thread.join()


def free_port() -> int:
    with server.listen("127.0.0.1", 0) as bound:
        return int(bound.getsockname()[1])


@contextmanager
def vllm_server(folder: Path, dtype: str) -> Iterator[str]:
    """vLLM's, uncompiled; it has begun to start, and `wait` waits for it."""
    options = ("--dtype", dtype, "--enforce-eager", "--max-model-len", "1024")
    upstream = vllm_process.vllm_upstream(
        folder,
        port=free_port(),
        max_adapters=len(TENANTS),
        max_rank=16,
        max_batch=TOGETHER,
        python=VLLM,
        options=(*options, "--no-enable-prefix-caching"),
    )
    environment = {**os.environ, **VLLM_ENV, **upstream.environment}
    with subprocess.Popen(upstream.command, env=environment, start_new_session=True) as process:
        try:
            yield upstream.url
        finally:
            process.terminate()


def wait(url: str, seconds: float = 900.0) -> None:
    """Until it is healthy."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise SystemExit(f"the server at {url} did not become healthy")


def load(url: str, tenant: str, root: Path) -> float:
    """Milliseconds."""
    body = {"lora_name": tenant, "lora_path": str((root / tenant).resolve())}
    start = time.perf_counter()
    httpx.post(f"{url}/v1/load_lora_adapter", json=body, timeout=300).raise_for_status()
    return 1e3 * (time.perf_counter() - start)


def unload(url: str, tenant: str) -> None:
    body = {"lora_name": tenant}
    httpx.post(f"{url}/v1/unload_lora_adapter", json=body, timeout=300).raise_for_status()


def ask(url: str, name: str, ids: list[int]) -> str:
    body = {"model": name, "prompt": ids, "max_tokens": NEW_TOKENS, "temperature": 0}
    answer = httpx.post(
        f"{url}/v1/completions", json={**body, "ignore_eos": True}, timeout=600
    ).raise_for_status()
    text: str = answer.json()["choices"][0]["text"]
    return text


def rate(url: str, names: list[str], ids: list[int]) -> float:
    """Tokens a second of requests that start together."""
    with ThreadPoolExecutor(len(names)) as pool:
        start = time.perf_counter()
        list(pool.map(lambda name: ask(url, name, ids), names))
        return NEW_TOKENS * len(names) / (time.perf_counter() - start)


def write(metric: str, values: list[float], unit: str, **extra: Any) -> None:
    spread = statistics.stdev(values) if len(values) > 1 else None
    record = Record(
        metric=metric,
        value=round(statistics.median(values), 4),
        spread=None if spread is None else round(spread, 4),
        unit=unit,
        command=f"python -m benchmarks.adapters_vllm {extra['dtype']}",
        extra={"model": "smollm2-135m", "rounds": len(values), "vllm": "0.32.0",
               "load_average": round(os.getloadavg()[0], 1), **extra},
    )  # fmt: skip
    append_record(RECORDS, record)
    print(metric, record.value, unit, extra, flush=True)


def agreement(
    urls: dict[str, str], tenant: str, prompts: list[list[int]], tokenizer: Any
) -> list[float]:
    """Of each prompt, the share of greedy tokens until the first that differs."""
    shares = []
    for ids in prompts:
        ours, theirs = (tokenizer.encode(ask(url, tenant, ids)) for url in urls.values())
        pairs = enumerate(zip(ours, theirs, strict=False))
        first = next((n for n, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
        shares.append(first / max(len(ours), len(theirs)))
    return shares


def compare(urls: dict[str, str], llm: zoo.Loaded, chats: Any, root: Path, dtype: str) -> None:
    tokenizer = llm.tokenizer
    for tenant in TENANTS:
        for name, url in urls.items():
            times = []
            for turn in range(ROUNDS):
                times.append(load(url, tenant, root))
                if turn < ROUNDS - 1:
                    unload(url, tenant)
            write("adapter_load", times, "ms", engine=name, adapter=tenant, dtype=dtype)
    prompts = {
        tenant: [tokenizer.encode(tokenizer.apply_chat(talk[:1])) for talk in talks[:QUESTIONS]]
        for tenant, talks in chats.items()
    }
    for tenant in ("base", *TENANTS):
        asked = prompts["finance" if tenant == "base" else tenant]
        shares = agreement(urls, tenant, asked, tokenizer)
        mean = [sum(shares) / len(shares)]
        write("adapter_agreement", mean, "share of tokens", adapter=tenant, dtype=dtype)
    settings = {"base": ["base"] * TOGETHER, "mixed": ["base", *TENANTS] * (TOGETHER // 4)}
    rates: dict[tuple[str, str], list[float]] = {}
    for turn in range(ROUNDS + 1):
        for setting, names in settings.items():
            for name, url in urls.items():
                found = rate(url, names, prompts["medical"][0])
                if turn > 0:  # the first is a warm-up
                    rates.setdefault((name, setting), []).append(found)
    for (name, setting), values in rates.items():
        write("adapter_rate", values, "tok/s", engine=name, setting=setting, dtype=dtype)


def main(dtype: str) -> None:
    llm = zoo.load("smollm2-135m", dtype="float32", device="cpu")
    chats = conversations()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        huggingface.save_folder(llm.model, llm.tokenizer, root / "base")
        theirs = stack.enter_context(vllm_server(root / "base", dtype))
        tune(llm, chats, root)
        wait(theirs)
        ours = stack.enter_context(our_server(llm, root, dtype))
        compare({OURS: ours, THEIRS: theirs}, llm, chats, root, dtype)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "float32")
