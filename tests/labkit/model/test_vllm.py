"""vLLM loads the folders that labkit exports, and continues a prompt as MiniLLM does."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from labkit.model import huggingface, zoo

PYTHON = Path(__file__).parents[3] / ".venv-vllm" / "bin" / "python"
PROMPT = "The capital of France is"
NEW = 12
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
QUIET = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}
GENERATE = """
import json, sys
from vllm import LLM, SamplingParams

folder, prompt, new = sys.argv[1:]
llm = LLM(model=folder, dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=1)
greedy = SamplingParams(temperature=0, max_tokens=int(new), ignore_eos=True)
[out] = llm.generate(prompt, greedy, use_tqdm=False)
print(json.dumps([list(out.prompt_token_ids), list(out.outputs[0].token_ids)]))
"""


def greedy_tokens(llm: zoo.Loaded, prompt_ids: list[int]) -> list[int]:
    """The most probable continuation, by full recomputation."""
    ids = torch.tensor([prompt_ids])
    with torch.no_grad():
        for _ in range(NEW):
            ids = torch.cat([ids, llm.model(ids)[:, -1:].argmax(-1)], dim=1)
    return list(ids[0, len(prompt_ids) :].tolist())


@pytest.mark.vllm
@pytest.mark.parametrize("name", ["mini", "smollm2-135m"])
def test_vllm_continues_an_exported_model_as_minillm_does(name: str, tmp_path: Path) -> None:
    llm = zoo.load(name, dtype="float32", device="cpu")
    huggingface.save_folder(llm.model, llm.tokenizer, tmp_path)
    done = subprocess.run(
        [str(PYTHON), "-c", GENERATE, str(tmp_path), PROMPT, str(NEW)],
        env={**os.environ, **CPU, **QUIET},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    theirs_prompt, theirs_new = json.loads(done.stdout.splitlines()[-1])
    ours_prompt = llm.tokenizer.encode(PROMPT)
    assert theirs_prompt == ours_prompt
    assert theirs_new == greedy_tokens(llm, ours_prompt)
