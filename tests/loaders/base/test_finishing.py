"""What a finalizer leaves to another thread, whoever drops the last reference."""

import gc
import os
import subprocess
import sys
import threading

import pytest
from feedrate.loaders.base.finishing import finish, finish_after, start_finishing

PATIENCE_S = 30  # this only ends a failing test


class Owner:
    """An object that only a collection of garbage ends."""

    def __init__(self):
        self.itself = self


def test_what_needs_a_lock_of_the_thread_that_collects_garbage_is_done_after_it():
    lock, done, threads = threading.Lock(), threading.Event(), []

    def work():
        with lock:
            threads.append(threading.current_thread())
            done.set()

    finish_after(Owner(), work)
    with lock:
        gc.collect()
        assert not threads
    assert done.wait(PATIENCE_S)
    assert threads != [threading.current_thread()]


def test_an_error_ends_nothing_else(caplog):
    start_finishing()
    done = threading.Event()
    finish(lambda: 1 / 0)
    finish(done.set)
    assert done.wait(PATIENCE_S)
    assert "cannot end what nobody uses any more" in caplog.text


PROGRAM = """
import os, sys, time
from feedrate.loaders.base.finishing import finish, start_finishing

start_finishing()
finish(lambda: (time.sleep(0.2), print("done", flush=True)))
if "fork" in sys.argv and not os.fork():
    start_finishing()
    finish(lambda: print("done by the child", flush=True))
    sys.exit()
if "fork" in sys.argv:
    os.wait()
"""


@pytest.mark.parametrize("how", ["", "fork"])
def test_the_interpreter_s_end_waits_and_a_fork_does_only_its_own(how):
    if how and not hasattr(os, "fork"):
        pytest.skip("there is no fork here")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, how],
        capture_output=True, text=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    expected = ["done"] if not how else ["done", "done by the child"]
    assert sorted(ran.stdout.splitlines()) == expected
    assert ran.stderr == ""
