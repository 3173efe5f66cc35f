"""Suppressing TensorFlow's log lines on import, which no environment variable silences."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

# Abseil's logging begins before TF_CPP_MIN_LOG_LEVEL is read: none of TF_CPP_MIN_LOG_LEVEL=3,
# GLOG_minloglevel and ABSL_MIN_LOG_LEVEL changes that (TensorFlow 2.21). TF_ENABLE_ONEDNN_OPTS=0
# would, but it changes what is computed.
_CHATTER = re.compile(
    rb"(WARNING: All log messages before absl::InitializeLog\(\)|I\d{4} \d\d:\d\d:\S+ .*oneDNN)"
)


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """Drop these lines from stderr; other output is shown when the block ends.

    This redirects the file descriptor that native code writes to: use it where one thread runs.
    """
    sys.stderr.flush()
    try:
        shown = os.dup(2)
    except OSError:  # stderr is closed
        yield
        return
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            os.close(shown)
            kept.seek(0)
            with contextlib.suppress(OSError):  # stderr has no reader any more
                for line in kept:
                    if not _CHATTER.match(line):
                        os.write(2, line)
