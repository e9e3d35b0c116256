"""Frames over pipes: caps before anything is read, deadlines, and an end that is noticed."""

import os
from collections.abc import Iterator

import numpy as np
import pytest

from grader.box.frames import HEADER, MAX_TEXT_BYTES, WireError, encode
from grader.box.wire import Channel, ClosedError, within


class Pipes:
    """A channel, and the other ends of its two pipes."""

    def __init__(self) -> None:
        reads, self.writes = os.pipe()
        self.reads, writes = os.pipe()
        self.channel = Channel(reads, writes)

    def close(self) -> None:
        self.channel.close()
        for fd in (self.reads, self.writes):
            try:
                os.close(fd)
            except OSError:
                continue


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    made = Pipes()
    yield made
    made.close()


def test_a_message_arrives_whole(pipes: Pipes) -> None:
    os.write(pipes.writes, encode({"a": np.arange(3)}) + encode({"b": 2}))
    assert pipes.channel.receive(within(1.0))["a"].tolist() == [0, 1, 2]
    assert pipes.channel.receive(within(1.0)) == {"b": 2}
    pipes.channel.send({"c": "é"}, within(1.0))
    assert os.read(pipes.reads, 2**16) == encode({"c": "é"})


def test_a_huge_frame_is_refused_before_it_is_read(pipes: Pipes) -> None:
    os.write(pipes.writes, HEADER.pack(2**40, 10))
    with pytest.raises(WireError, match="larger than"):
        pipes.channel.receive(within(1.0))
    with pytest.raises(TimeoutError):
        pipes.channel.receive(within(0.05))
    os.close(pipes.writes)
    with pytest.raises(ClosedError):
        pipes.channel.receive(within(1.0))


def test_more_text_than_can_be_parsed_in_a_moment_is_refused_before_it_is_read(
    pipes: Pipes,
) -> None:
    os.write(pipes.writes, HEADER.pack(MAX_TEXT_BYTES + 1, MAX_TEXT_BYTES + 1))
    with pytest.raises(WireError, match="bytes of JSON has more than"):
        pipes.channel.receive(within(1.0))
    os.write(pipes.writes, encode({"a": 1}))
    with pytest.raises(WireError, match="bytes of JSON has more than 3"):
        pipes.channel.receive(within(1.0), most_text=3)


def test_nothing_is_sent_of_what_cannot_be_encoded(pipes: Pipes) -> None:
    with pytest.raises(WireError):
        pipes.channel.send({"a": "x" * 100}, within(1.0), most_text=100)
    os.set_blocking(pipes.reads, False)
    with pytest.raises(BlockingIOError):
        os.read(pipes.reads, 1)


def test_nobody_reads(pipes: Pipes) -> None:
    with pytest.raises(TimeoutError):
        pipes.channel.send({"a": np.zeros(2**20)}, within(0.05))
    os.close(pipes.reads)
    with pytest.raises(ClosedError):
        pipes.channel.send({"a": 1}, within(1.0))
