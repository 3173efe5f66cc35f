"""What TensorFlow logs on import is left out of stderr; everything else is shown."""

import os
import subprocess
import sys

import pytest
from feedrate.harness.cli.chatter import without_chatter

LOGGED = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    b"I0000 00:00:1795932744.241563    8548 port.cc:153] oneDNN custom operations are on.\n"
)


def test_chatter_is_left_out_and_all_else_is_shown_in_its_order(capfd):
    with without_chatter():
        os.write(2, b"first\n" + LOGGED)
        os.write(2, b"W0000 00:00:1795932744.2  8548 port.cc:1] third")
    os.write(2, b"\nfourth\n")
    lines = capfd.readouterr().err.splitlines()
    assert lines == [
        "first", "W0000 00:00:1795932744.2  8548 port.cc:1] third",
        "fourth",
    ]  # fmt: skip


def test_an_error_is_raised_and_what_was_written_before_it_is_shown(capfd):
    def fails():
        with without_chatter():
            os.write(2, LOGGED + b"why it failed\n")
            raise ImportError

    with pytest.raises(ImportError):
        fails()
    assert capfd.readouterr().err == "why it failed\n"


def test_the_import_of_tensorflow_says_nothing():
    pytest.importorskip("tensorflow")
    code = (
        "from feedrate.harness.cli.chatter import without_chatter\n"
        "with without_chatter():\n"
        "    import tensorflow\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "oneDNN" not in done.stderr
    assert "absl" not in done.stderr


def test_where_stderr_is_closed_the_block_runs():
    code = (
        "import os\n"
        "from feedrate.harness.cli.chatter import without_chatter\n"
        "os.close(2)\n"
        "with without_chatter():\n"
        "    print('done', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"
