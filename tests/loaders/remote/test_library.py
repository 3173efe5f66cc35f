"""Objects in forks: each process makes its own requests, whatever its parents did."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("obstore")
if not hasattr(os, "fork"):
    pytest.skip("there is no fork here", allow_module_level=True)

PATIENCE_S = 60  # this only ends a failing test
SCRIPT = """
import os, sys, threading, traceback
import pandas as pd
from feedrate.loaders.historical_loader import HistoricalDataLoader
from feedrate.loaders.optimized_historical_loader import OptimizedHistoricalDataLoader
from feedrate.loaders.remote import library
from feedrate.loaders.remote.requests import counts
from feedrate.loaders.storage import ParquetStorage

storage = ParquetStorage(sys.argv[1])
storage.save(pd.DataFrame({"a": [1, 2]}), "games", "20250101")
loader = OptimizedHistoricalDataLoader(storage, "original", profile=None)

def use(level):
    before = counts()
    frame = loader.load_files(storage.files("games"))
    assert frame["a"].tolist() == [1, 2], frame
    assert library.is_loaded()
    assert counts().since(before).requests >= 2, counts()
    print("level", level, flush=True)

def fork(level):
    child = os.fork()
    if child == 0:
        try:
            assert not library.is_loaded()
            use(level)
            if level < 3:
                fork(level + 1)
                use(level)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, f"a fork of level {level} failed"

class Held(threading.Thread):
    def run(self):
        with library._lock:  # a fork meanwhile copies a lock that nobody releases
            begun.set()
            done.wait()

use(0)
fork(1)
fork(1)
use(0)
begun, done = threading.Event(), threading.Event()
thread = Held()
thread.start()
begun.wait()
fork(3)
done.set()
thread.join()
"""


def test_forks_of_forks_read_objects_after_their_parents_did(url):
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, url],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    levels = [line.removeprefix("level ") for line in ran.stdout.splitlines()]
    assert levels == [*"0", *"12321", *"12321", *"0", *"3"]
