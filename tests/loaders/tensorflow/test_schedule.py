"""tf.data schedules work: in order, in as many threads as asked for, with Python's own errors."""

import multiprocessing
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from feedrate.loaders.base.errors import InputError, ParquetFileError
from feedrate.loaders.tensorflow import schedule as tf_schedule
from feedrate.loaders.tensorflow.schedule import AUTOTUNE, TfDataScheduler

tf = pytest.importorskip("tensorflow")

PATIENCE_S = 30  # a barrier that opens at all opens at once; this only ends a failing test


def test_autotune_is_the_constant_of_tf_data():
    assert tf.data.AUTOTUNE == AUTOTUNE


@pytest.mark.parametrize("num_workers", [AUTOTUNE, 0, 1, 3])
@pytest.mark.parametrize("prefetch", [AUTOTUNE, 0, 2])
def test_results_come_in_the_order_of_the_parts(num_workers, prefetch):
    parts = [f"part {number}" for number in range(20)]
    assert TfDataScheduler(num_workers, prefetch).run(parts, str.upper) == [
        part.upper() for part in parts
    ]


def test_no_parts_need_no_work():
    assert TfDataScheduler(2).run([], str.upper) == []


def test_results_are_the_objects_themselves():
    made = {}

    def work(part):
        made[part] = object()
        return made[part]

    results = TfDataScheduler(2).run([1, 2, 3], work)
    assert all(result is made[part] for part, result in zip([1, 2, 3], results, strict=True))


@pytest.mark.parametrize("num_workers", [1, 5])
def test_as_many_parts_are_in_work_as_there_are_workers(num_workers):
    together = threading.Barrier(num_workers)
    in_work = []
    most = []

    def work(part):
        in_work.append(part)
        together.wait(PATIENCE_S)  # opens only when so many parts are in work at once
        most.append(len(in_work))
        together.wait(PATIENCE_S)
        in_work.remove(part)
        together.wait(PATIENCE_S)

    TfDataScheduler(num_workers).run(range(3 * num_workers), work)
    assert set(most) == {num_workers}


def test_no_worker_means_one_part_after_the_other():
    in_work = threading.Lock()

    def work(_part):
        assert in_work.acquire(blocking=False)
        in_work.release()

    TfDataScheduler(0).run(range(50), work)


def test_an_exception_of_the_work_comes_out_as_the_object_it_is():
    error = ParquetFileError("a.parquet", "it is empty (0 bytes)")

    def work(_part):
        raise error

    with pytest.raises(ParquetFileError) as raised:
        TfDataScheduler(2).run([1], work)
    assert raised.value is error


@pytest.mark.parametrize("num_workers", [0, 4])
def test_of_several_exceptions_the_first_part_s_is_raised_and_later_parts_are_not_begun(
    num_workers,
):
    begun = set()

    def work(part):
        begun.add(part)
        if part >= 2:
            raise ValueError(part)

    with pytest.raises(ValueError, match=r"^2$"):
        TfDataScheduler(num_workers).run(range(10_000), work)
    assert len(begun) < 10_000


def test_a_failed_call_leaves_nothing_behind_and_the_next_one_works():
    scheduler = TfDataScheduler(2)
    with pytest.raises(ZeroDivisionError):
        scheduler.run([0], lambda part: 1 / part)
    assert scheduler.run([1, 2], lambda part: part + 1) == [2, 3]
    assert tf_schedule._calls == {}


def test_one_scheduler_serves_many_threads_at_once():
    scheduler = TfDataScheduler(2)
    with ThreadPoolExecutor(6) as pool:
        calls = pool.map(
            lambda call: scheduler.run(range(10), lambda part: (call, part)), range(12)
        )
    assert list(calls) == [[(call, part) for part in range(10)] for call in range(12)]


def test_work_may_itself_schedule_work():
    def outer(part):
        return TfDataScheduler(1).run(range(part), lambda inner: inner)

    assert TfDataScheduler(2).run([1, 2], outer) == [[0], [0, 1]]


def test_an_interrupt_leaves_out_the_parts_that_were_not_begun():
    interrupted = threading.Event()
    begun = []

    def interrupt(*_):
        interrupted.set()
        raise KeyboardInterrupt

    def work(part):
        begun.append(part)
        if part == 0:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        assert interrupted.wait(PATIENCE_S)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            TfDataScheduler(1).run(range(5_000), work)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(begun) < 5_000
    assert TfDataScheduler(1).run([1], abs) == [1]


def test_a_scheduler_pickles():
    again = pickle.loads(pickle.dumps(TfDataScheduler(3, 2)))  # noqa: S301 - made in this line
    assert again == TfDataScheduler(3, 2)
    assert again.run([1, 2], str) == ["1", "2"]


def _squares(scheduler, answers):
    answers.put(scheduler.run([1, 2, 3], lambda part: part * part))


def test_a_forked_process_works_too():
    scheduler = TfDataScheduler(2)
    scheduler.run([1], abs)  # TensorFlow's threads run here, and not in the child
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_squares, args=(scheduler, answers))
    child.start()
    child.join(PATIENCE_S)
    if child.is_alive():
        child.kill()
    assert child.exitcode == 0
    assert answers.get() == [1, 4, 9]


def test_where_tensorflow_sees_a_gpu_it_is_left_alone(monkeypatch):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda _kind: ["/GPU:0"])
    monkeypatch.setattr(tf_schedule, "_pipeline", None)
    assert TfDataScheduler(2, AUTOTUNE).run([1, 2], str) == ["1", "2"]
    assert TfDataScheduler(AUTOTUNE).run([1, 2], str) == ["1", "2"]


@pytest.mark.parametrize("num_workers", [-2, 1.5, True])
def test_a_number_of_workers_that_is_none_is_refused(num_workers):
    with pytest.raises(InputError, match="num_workers"):
        TfDataScheduler(num_workers)
