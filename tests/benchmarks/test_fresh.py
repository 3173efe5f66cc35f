import pytest

from benchmarks.fresh import Fresh, run_fresh
from benchmarks.plan import measure_task

NO_SUCH = {"name": "no such comparison"}


def test_a_task_is_prepared_before_it_is_told_to_go():
    with Fresh(measure_task, NO_SUCH) as child:
        child.wait_until_ready()
        assert child._process.poll() is None


def test_the_error_of_a_task_reaches_who_started_it():
    with pytest.raises(RuntimeError, match=r"exit status 1:(?s:.*)KeyError: 'no such comparison'"):
        run_fresh(measure_task, NO_SUCH)


def test_leaving_a_task_ends_its_process():
    with pytest.raises(InterruptedError), Fresh(measure_task, NO_SUCH) as child:
        raise InterruptedError
    assert child._process.returncode is not None
