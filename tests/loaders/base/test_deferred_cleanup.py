"""What finalizers leave to another thread, whoever drops the last reference."""

import gc
import os
import subprocess
import sys
import threading

import pytest
from feedrate.loaders.base.deferred_cleanup import Cleanup

PATIENCE_S = 30  # this only ends a failing test


@pytest.fixture(scope="module")
def cleanup():
    return Cleanup("cleanup of tests")


class Owner:
    """An object that only a collection of garbage ends."""

    def __init__(self):
        self.itself = self


def test_cleanup_may_need_a_lock_of_the_thread_that_collects_garbage(cleanup):
    lock, done, threads = threading.Lock(), threading.Event(), []

    def work():
        with lock:
            threads.append(threading.current_thread())
            done.set()

    def collect():
        with lock:
            cleanup.run_after(Owner(), work)
            gc.collect()

    collecting = threading.Thread(target=collect, daemon=True)
    collecting.start()
    assert done.wait(PATIENCE_S)
    assert threads != [collecting]


def test_an_error_ends_nothing_else(cleanup, caplog):
    done = threading.Event()
    queue_work = cleanup.start()
    queue_work(lambda: 1 / 0)
    queue_work(done.set)
    assert done.wait(PATIENCE_S)
    assert "cleanup of a dropped stream failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


WAITS = """
import time
from feedrate.loaders.base.deferred_cleanup import CLOSING
CLOSING.start()(lambda: (time.sleep(0.2), print("done", flush=True)))
"""
FORKS = """
import os, sys, threading
from feedrate.loaders.base.deferred_cleanup import CLOSING
begun, go_on = threading.Event(), threading.Event()
parents = CLOSING.start()
parents(lambda: (begun.set(), go_on.wait()))
parents(lambda: print("of the parent", flush=True))
begun.wait()
if not os.fork():
    parents(lambda: print("never", flush=True))
    CLOSING.start()(lambda: print("of the child", flush=True))
    sys.exit()
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
go_on.set()
"""


def said(program):
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True, text=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert ran.stderr == ""
    return ran.stdout.splitlines()


def test_the_exit_waits_for_what_is_queued():
    assert said(WAITS) == ["done"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_does_only_what_is_queued_in_it():
    assert said(FORKS) == ["of the child", "of the parent"]
