"""lm_eval scores a task through the server as it does in this process."""

import json

import pytest
import torch

lm_eval = pytest.importorskip("lm_eval")

QUESTIONS = [
    {"question": "The cat", "choices": [" sat", " flew", " is a colour"], "answer": 0},
    {"question": "Two and two", "choices": [" make five", " make four"], "answer": 1},
    {"question": "é", "choices": ["à", "ü", "b"], "answer": 2},
]
TASK = """\
task: tiny
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


def log_likelihood(loaded, context: str, continuation: str) -> float:
    ids = loaded.tokenizer.encode(context + continuation)
    start = len(loaded.tokenizer.encode(context))
    with torch.no_grad():
        logprobs = loaded.model(torch.tensor([ids]))[0].log_softmax(-1)
    return float(sum(logprobs[t - 1, ids[t]] for t in range(start, len(ids))))


@pytest.mark.filterwarnings("ignore")  # of datasets and its dependencies, none of them ours
def test_log_likelihoods_are_the_models_own(url, byte_loaded, byte_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in QUESTIONS))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "tiny.yaml").write_text(TASK.format(file=file))
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    results = lm_eval.simple_evaluate(
        model="local-completions",
        model_args=f"model=byte,base_url={url}/v1/completions,tokenizer={byte_folder},"
        "num_concurrent=1,max_retries=1,max_length=190",
        tasks=["tiny"],
        task_manager=manager,
        batch_size=2,
        log_samples=True,
        bootstrap_iters=0,
    )
    for sample in results["samples"]["tiny"]:
        doc = sample["doc"]
        found = [float(answer[0][0]) for answer in sample["resps"]]
        expected = [log_likelihood(byte_loaded, doc["question"], c) for c in doc["choices"]]
        # Sums of float32 log-probabilities, computed in chunks of other lengths.
        assert found == pytest.approx(expected, abs=1e-3)
