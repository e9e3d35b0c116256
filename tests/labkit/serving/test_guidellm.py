"""A load generator that others keep, GuideLLM, loads our server and counts as we do."""

import json
import os
import subprocess
from pathlib import Path

import httpx
import pytest

from labkit.model import huggingface, zoo
from labkit.serving import server

GUIDELLM = Path(__file__).parents[3] / ".venv-guidellm" / "bin" / "guidellm"
REQUESTS, PROMPT, NEW = 12, 16, 8


@pytest.mark.guidellm
@pytest.mark.parametrize("route", ["/v1/completions", "/v1/chat/completions"])
def test_every_request_of_its_load_is_answered(route: str, tmp_path: Path) -> None:
    llm = zoo.load("mini", dtype="float32", device="cpu")
    huggingface.save_folder(llm.model, llm.tokenizer, tmp_path / "mini")
    report = tmp_path / "report.json"
    with server.in_thread(server.build_server(llm)) as url:
        options = {
            "backend": f"kind=openai_http,target={url},model=mini,request_format={route}",
            "profile": "kind=poisson,rate=20",
            "constraint": f"kind=max_requests,count={REQUESTS}",
            "tokenizer": f"kind=huggingface_auto,model={tmp_path / 'mini'}",
            "data": f"kind=synthetic_text,prompt_tokens={PROMPT},output_tokens={NEW}",
            "output": f"kind=json,path={report}",
        }
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
        done = subprocess.run(
            [GUIDELLM, "run", *flags, "--disable-console"],
            env={**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        page = httpx.get(f"{url}/metrics").text
    [benchmark] = json.loads(report.read_text())["benchmarks"]
    requests = {kind: found or [] for kind, found in benchmark["requests"].items()}
    assert [len(requests[k]) for k in ("successful", "errored", "incomplete")] == [REQUESTS, 0, 0]
    made = [r["output_metrics"]["text_tokens"] for r in requests["successful"]]
    assert made == [NEW] * REQUESTS
    counted = page.partition('labkit_generation_tokens_total{model="mini"} ')[2].split()[0]
    assert float(counted) == REQUESTS * NEW
