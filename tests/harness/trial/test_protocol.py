import os
import threading
import time

import msgspec
import pytest
from feedrate.harness.trial.protocol import LineChannel, RunTrial, encode_request
from feedrate.loaders.base.settings import LoaderSettings

LONG = b"x" * (1 << 20)  # sixteen pipes full


class Pipes:
    """A channel, and the other side's ends."""

    def __init__(self):
        requests, there = os.pipe()
        back, answers = os.pipe()
        self.requests, self.answers = os.fdopen(requests, "rb", 0), os.fdopen(answers, "wb", 0)
        self.channel = LineChannel(os.fdopen(there, "wb", 0), os.fdopen(back, "rb", 0))


@pytest.fixture
def pipes():
    made = Pipes()
    yield made
    made.channel.close()
    made.requests.close()
    made.answers.close()


def test_a_long_line_arrives_whole_while_the_other_side_reads(pipes):
    got = bytearray()

    def read():
        while not got.endswith(b"\n"):
            got.extend(pipes.requests.read(10_000))

    reader = threading.Thread(target=read)
    reader.start()
    pipes.channel.send(LONG, 30)
    reader.join()
    assert got == LONG + b"\n"


def test_a_line_that_nobody_takes_ends_in_a_timeout(pipes):
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        pipes.channel.send(LONG, 0.2)
    assert 0.2 <= time.monotonic() - start < 5


def test_a_side_that_reads_no_more_is_noticed(pipes):
    pipes.requests.close()
    with pytest.raises(BrokenPipeError):
        pipes.channel.send(b"anyone?", 5)


def test_lines_are_taken_apart_however_they_come(pipes):
    pipes.answers.write(b"one\ntwo\nthr")
    assert [pipes.channel.receive(5), pipes.channel.receive(5)] == [b"one", b"two"]
    pipes.answers.write(b"ee\n")
    assert pipes.channel.receive(0) == b"three"


def test_half_a_line_is_waited_for_and_no_longer_than_allowed(pipes):
    pipes.answers.write(b"half")
    with pytest.raises(TimeoutError):
        pipes.channel.receive(0.05)
    pipes.answers.close()
    with pytest.raises(EOFError):
        pipes.channel.receive(5)


def test_a_limit_of_years_is_a_limit(pipes):
    pipes.answers.write(b"here\n")
    assert pipes.channel.receive(1e12) == b"here"


def test_a_setting_that_came_later_is_sent_only_where_it_is_no_default():
    def sent(**settings):
        request = RunTrial(
            job="frame", settings=LoaderSettings(**settings), files=1, passes=1, verify=False,
            transfer=False,
        )  # fmt: skip
        line = encode_request(request)
        assert msgspec.json.decode(line, type=RunTrial) == request
        return msgspec.json.decode(line)["settings"]

    later = {"decoder", "cache_bytes", "requests"}
    assert set(LoaderSettings.__struct_fields__) - sent().keys() == later
    assert sent(decoder="arrow")["decoder"] == "arrow"
    assert sent(requests=8)["requests"] == 8
