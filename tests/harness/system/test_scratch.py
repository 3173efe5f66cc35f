"""Scratch files go with their block, with their process, or with the next process."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from feedrate.harness.run.child_process import ChildProcess
from feedrate.harness.system import scratch as module
from feedrate.harness.system.scratch import VARIABLE, scratch, scratch_folder

MAKES = """
import sys, time
from feedrate.harness.system.scratch import scratch_folder
(scratch_folder() / "rows.parquet").touch()
print("made", flush=True)
time.sleep(float(sys.argv[1]))
"""

IS_STOPPED = """
import os, signal, tempfile
from feedrate.harness.system.scratch import scratch_folder
from feedrate.harness.system.stopping import handling, interrupt

def stop_after(module, name):
    make = getattr(module, name)

    def made(*arguments, **keywords):
        setattr(module, name, make)
        found = make(*arguments, **keywords)
        os.kill(os.getpid(), signal.SIGINT)
        return found

    setattr(module, name, made)

if %r == "open":
    stop_after(os, "open")  # by gettempdir(), to see whether it can write there
else:
    stop_after(tempfile, "mkdtemp")
with handling(interrupt):
    scratch_folder()
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """An empty temporary folder, of this process and of those that it starts."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    module._of_process.cache_clear()
    yield folder
    module._of_process.cache_clear()


def made_by_another(seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", MAKES, str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "made\n"
    return process


def files_in(folder):
    """The files below a folder, whose folders may go meanwhile."""
    return [Path(where, name) for where, _, names in os.walk(folder) for name in names]


def test_a_scratch_folder_goes_with_its_block_also_after_an_error(temporary):
    used = []

    def fails():
        with scratch() as folder:
            used.append(folder)
            (folder / "rows.parquet").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert temporary in used[0].parents
    assert not used[0].exists()


@pytest.mark.parametrize("call", ["open", "mkdtemp"])
def test_a_signal_while_the_first_folder_is_made_leaves_nothing(temporary, call):
    process = subprocess.run(
        [sys.executable, "-c", IS_STOPPED % call], stderr=subprocess.PIPE, text=True, check=False
    )
    assert "KeyboardInterrupt" in process.stderr
    assert list(temporary.iterdir()) == []


def test_what_is_forgotten_goes_with_the_process(temporary):
    process = made_by_another(0)
    process.communicate(timeout=60)
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_one(temporary):
    process = made_by_another(60)
    (left,) = temporary.iterdir()
    process.kill()
    process.communicate(timeout=60)
    os.utime(left, (time.time() - 3600,) * 2)
    mine = scratch_folder()
    assert list(temporary.iterdir()) == [mine.parent]


def test_what_belongs_to_a_process_that_lives_is_left_however_old(temporary):
    process = made_by_another(60)
    (theirs,) = temporary.iterdir()
    os.utime(theirs, (time.time() - 3600,) * 2)
    try:
        scratch_folder()
        assert len(files_in(theirs)) == 1
    finally:
        process.kill()
        process.communicate(timeout=60)


def test_what_a_killed_child_left_goes_with_it(temporary):
    child = ChildProcess(1)
    (folder,) = Path(next(temporary.iterdir())).iterdir()
    (folder / "rows.parquet").touch()
    child.close()
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "cache"), [(signal.SIGINT, "none"), (signal.SIGTERM, "disk")], ids=str
)
def test_a_signal_while_children_warm_up_or_load_leaves_no_file(
    storage, temporary, tmp_path, number, cache
):
    command = [
        sys.executable, "-m", "feedrate.harness", "tune", storage, "--no-profile", "--cache", cache,
        "--backends", "pytorch", "--workers", "1", "--files", "12",
        "--results", tmp_path / "r.jsonl",
    ]  # fmt: skip
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "FEEDRATE_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not files_in(temporary) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert list(temporary.iterdir()) == []
