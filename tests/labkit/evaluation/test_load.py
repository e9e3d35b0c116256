"""Arrivals, outcomes and their summary; a raw server breaks every rule of a stream."""

import asyncio
import json

import numpy as np
import pytest
from scipy import stats

from labkit.evaluation import load

WHOLE = [
    {"choices": [{"text": "a"}]},
    {"choices": [{"text": ""}]},
    {"choices": [{"text": "b"}]},
    {"choices": [], "usage": {"completion_tokens": 3}},
]
CHAT = [
    {"choices": [{"delta": {"role": "assistant"}}]},
    {"choices": [{"delta": {"content": "a"}}], "usage": None},
    {"choices": [], "usage": {"completion_tokens": 1}},
]


def events(*contents: object, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(content)}\n\n" for content in contents]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def answer(content: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    return head.encode() + content


RAW = {
    "whole": answer(events(*WHOLE)),
    "chat": answer(events(*CHAT)),
    "comments": answer(b": wait\n\n" + events(*WHOLE)),
    "refused": answer(b'{"error": "full"}', "429 Too Many Requests"),
    "broken": answer(b"oops", "500 Internal Server Error"),
    "cut": answer(events(*WHOLE, done=False)),
    "error": answer(events(WHOLE[0], {"error": {"code": "request_timeout"}})),
    "not JSON": answer(b"data: {\n\n"),
    "hangs up": b"",
}


async def against_raw(names: list[str], bodies: list[dict]) -> list[load.Outcome]:
    """One request after the other, each answered with the raw bytes of its name."""
    queue, seen = list(names), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        size = next(
            int(x.split(":")[1]) for x in head.splitlines() if "ontent-" in x and "gth" in x
        )
        seen.append((head.split()[1], head, json.loads(await reader.readexactly(size))))
        writer.write(RAW[queue.pop(0)])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        outcomes = await load.closed_loop(url, bodies, clients=1, api_key="key")
    for (path, head, sent), body in zip(seen, bodies, strict=True):
        assert path == f"/v1/{'chat/' if 'messages' in body else ''}completions"
        assert "authorization: bearer key" in head.lower()
        assert sent == {**body, "stream": True, "stream_options": {"include_usage": True}}
    return outcomes


def test_each_kind_of_answer_is_told_and_hurts_no_other() -> None:
    names = [*RAW, "whole"]
    bodies = [{"messages": []} if name == "chat" else {"prompt": "x"} for name in names]
    outcomes = asyncio.run(against_raw(names, bodies))
    found = dict(zip(names, outcomes, strict=True))
    ok = {name: found[name].ok for name in names}
    assert ok == {name: name in ("whole", "chat", "comments") for name in names}
    assert [found[n].status for n in ("refused", "broken", "error", "hangs up")] == [
        429,
        500,
        200,
        0,
    ]
    assert (found["whole"].tokens, len(found["whole"].events_s)) == (3, 2)
    assert (found["chat"].tokens, len(found["chat"].events_s)) == (1, 1)
    assert found["refused"].error == '{"error": "full"}'
    assert "[DONE]" in found["cut"].error
    assert "request_timeout" in found["error"].error
    assert found["not JSON"].error.startswith("JSONDecodeError")
    assert found["hangs up"].error.startswith("RemoteProtocolError")
    summary = load.summarize(outcomes)
    counts = summary.requests, summary.completed, summary.refused, summary.failed
    assert counts == (10, 4, 1, 5)


def test_nobody_there_is_an_outcome_and_a_load_of_one() -> None:
    [outcome] = asyncio.run(load.open_loop("http://127.0.0.1:9", [{"prompt": "x"}], [0.0]))
    assert (outcome.status, outcome.ok, outcome.tokens) == (load.NO_ANSWER, False, 0)
    assert outcome.error.startswith("ConnectError")
    summary = load.summarize([outcome], load.Objective(first_token_s=1.0, per_token_s=1.0))
    assert (summary.failed, summary.tokens_per_s, summary.goodput_per_s) == (1, 0, 0)
    assert np.isnan(summary.latency_s).all()


def test_gaps_are_exponential_and_seeded() -> None:
    due = load.poisson(4.0, 5000, np.random.default_rng(1))
    gaps = np.diff([0.0, *due])
    assert stats.kstest(gaps, stats.expon(scale=0.25).cdf).pvalue > 0.01
    assert due == load.poisson(4.0, 5000, np.random.default_rng(1))


def outcome(due: float, events_s: list[float], tokens: int, status: int = 200) -> load.Outcome:
    end = events_s[-1] if events_s else 0.0
    error = "" if status == 200 else "no"
    return load.Outcome(
        due_s=due, status=status, events_s=tuple(events_s), tokens=tokens, end_s=end, error=error
    )


def test_summary_by_hand() -> None:
    outcomes = [
        outcome(0.0, [1.0, 2.0, 3.0], 5),  # 0.5 s a token
        outcome(1.0, [0.5, 2.5], 3),  # 1 s a token
        outcome(6.0, [4.0], 1),
        outcome(2.0, [], 0, status=503),
    ]
    objective = load.Objective(first_token_s=1.0, per_token_s=0.6)
    summary = load.summarize(outcomes, objective)
    assert (summary.completed, summary.refused, summary.failed) == (3, 1, 0)
    assert (summary.duration_s, summary.tokens_per_s) == (10.0, 0.9)
    assert summary.first_token_s[0] == 1.0
    assert summary.per_token_s == pytest.approx((0.75, 0.95, 0.995))
    assert summary.latency_s == pytest.approx(tuple(np.quantile([3, 2.5, 4], (0.5, 0.9, 0.99))))
    assert summary.goodput_per_s == 0.1
    assert load.summarize(outcomes).goodput_per_s is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: load.poisson(0.0, 3, np.random.default_rng(0)), "rate_per_s=0.0 and count=3"),
        (lambda: load.poisson(2.0, 0, np.random.default_rng(0)), "count=0"),
        (lambda: load.summarize([]), "at least one outcome"),
        (lambda: asyncio.run(load.open_loop("", [{}], [])), "1 bodies and 0 due times"),
        (lambda: asyncio.run(load.open_loop("", [{}] * 2, [2.0, 1.0])), "ascending"),
        (lambda: asyncio.run(load.closed_loop("", [], clients=0)), "clients=0"),
    ],
)
def test_wrong_arguments_are_named(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
