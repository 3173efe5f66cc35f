"""Python's end waits for files that other threads still hold, but not for ever."""

import subprocess
import sys

import pytest

PROGRAM = """
import io, sys, threading, time
from feedrate.loaders.base.arrow_threads import free_before_exit

class File(io.BytesIO):
    def __del__(self):
        print("freed", flush=True)

def hold(file, held_s=float(sys.argv[1])):
    time.sleep(held_s)

file = File()
free_before_exit(file)
threading.Thread(target=hold, args=(file,), daemon=True).start()
del file
"""


@pytest.mark.parametrize(("held_s", "said"), [(0.2, "freed\n"), (1_000, "")])
def test_the_end_waits_until_a_thread_has_freed_a_file(held_s, said):
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(held_s)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert (ran.stdout, ran.stderr) == (said, "")
