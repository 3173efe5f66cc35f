"""The loop over batches: what it sees of a loader, and of itself."""

import itertools
import time

import numpy as np
import pytest
from feedrate.harness.trial import consumption
from feedrate.harness.trial.consumer import check_consumer, make_step
from feedrate.harness.trial.consumption import alone_seconds, consume, loop_seconds
from feedrate.loaders.base.errors import InputError, MissingBackendError

BATCH = (np.zeros((4, 2), np.float32), np.zeros(4, np.float32))


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when it is told to."""

    class Clock:
        now = 100.0

        def passes(self, seconds):
            self.now += seconds

    made = Clock()
    monkeypatch.setattr(consumption, "perf_counter", lambda: made.now)
    return made


def test_waits_and_steps_are_told_apart(clock):
    def batches():
        clock.passes(1.0)  # building counts for the first batch
        for wait in (2.0, 0.5, 0.5, 0.25):
            clock.passes(wait)
            yield BATCH
        clock.passes(7.0)  # after the last one

    seen = consume(batches, lambda _: clock.passes(0.5))
    assert seen.rows == [4, 4, 4, 4]
    metrics = seen.metrics
    assert metrics["first_batch_s"] == 3.0
    assert metrics["wait_s"] == 4.25
    assert metrics["batch_p50_s"] == 0.5
    assert metrics["steady_rows_per_s"] == pytest.approx(8 / (0.5 + 0.5 + 0.5 + 0.25))
    assert seen.step_metrics == {"step_s": 0.5, "stall_pct": pytest.approx(100 * 4.25 / 13.25)}


def test_the_steady_rate_leaves_out_what_was_ready_before(clock):
    def batches():
        for number in range(20):
            clock.passes(0.0 if number < 8 else 1.0)
            yield BATCH

    assert consume(batches).metrics["steady_rows_per_s"] == pytest.approx(4.0)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_batches_give_no_steady_rate(clock, count):
    seen = consume(lambda: itertools.repeat(BATCH, count))
    assert "steady_rows_per_s" not in seen.metrics
    assert ("first_batch_s" in seen.metrics) == (count == 1)
    assert bool(seen.step_metrics) == (count == 1)
    assert clock.now == 100.0


def test_the_harness_itself_and_a_step_alone_are_measured(clock):
    assert loop_seconds(BATCH) == 0.0
    assert alone_seconds(lambda _: clock.passes(0.25), BATCH) == 0.25


def test_the_loop_takes_little():
    assert 0 < loop_seconds(BATCH) < 1e-4  # microseconds; this only tells seconds from them


def test_a_waiting_step_takes_its_time():
    before = time.perf_counter()
    make_step("20ms")(BATCH)
    assert time.perf_counter() - before >= 0.02


@pytest.mark.parametrize(
    "batch",
    [
        BATCH,
        BATCH[0],
        [np.zeros((4, 2), np.float64), np.zeros((4, 3))],
        (np.zeros((4, 2), np.int64), np.zeros(4, bool)),
    ],
)
def test_a_network_learns_from_any_batch(batch):
    torch = pytest.importorskip("torch")
    step = make_step("torch-mlp")
    step(batch)
    before = [parameter.clone() for parameter in step._model.parameters()]
    ones = [np.ones_like(part) for part in (batch if isinstance(batch, tuple | list) else [batch])]
    step(tuple(ones) if len(ones) > 1 else ones[0])
    changed = [not torch.equal(a, b) for a, b in zip(before, step._model.parameters(), strict=True)]
    assert any(changed)


def test_a_network_learns_from_tensors_of_tensorflow_and_torch():
    torch = pytest.importorskip("torch")
    tf = pytest.importorskip("tensorflow")
    for make in (tf.constant, torch.from_numpy):
        make_step("torch-mlp")(tuple(make(part) for part in BATCH))


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingBackendError, match=r"feedrate\[torch\]"):
        make_step("torch-mlp")


@pytest.mark.parametrize("text", ["", "5 parsecs", "0ms", "-1s", "torch"])
def test_what_is_no_consumer_is_an_error_that_names_it(text):
    with pytest.raises(InputError, match="torch-mlp"):
        check_consumer(text)
    check_consumer("5ms")
    check_consumer("torch-mlp")
