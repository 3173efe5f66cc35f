"""The interpreter's exit waits for files that other threads hold, but not for ever."""

import subprocess
import sys

import pandas as pd
import pytest
from feedrate.loaders.parquet import original
from feedrate.loaders.parquet.original import read_file

PROGRAM = """
import io, sys, threading, time
from feedrate.loaders.base import arrow_exit

class File(io.BytesIO):
    def __del__(self):
        print("freed", flush=True)

held_s, arrow_exit.MAX_WAIT_S = map(float, sys.argv[1:])
file = File()
arrow_exit.free_before_exit(file)
threading.Thread(target=lambda held: time.sleep(held_s), args=(file,), daemon=True).start()
del file
"""


@pytest.mark.parametrize(("held_s", "at_most_s", "said"), [(0.2, 30, "freed\n"), (1_000, 0.1, "")])
def test_the_exit_waits_until_a_thread_has_freed_a_file(held_s, at_most_s, said):
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(held_s), str(at_most_s)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert (ran.stdout, ran.stderr) == (said, "")


def test_a_file_of_python_that_pandas_reads_is_one_of_them(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(path)
    waited_for = []
    monkeypatch.setattr(original, "free_before_exit", waited_for.append)
    read_file(path)
    assert waited_for == []
    read_file(path, held=path.read_bytes())
    assert len(waited_for) == 1
