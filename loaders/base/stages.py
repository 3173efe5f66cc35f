"""Stages of a load that threads enter and leave, recorded to show where the time goes.

A loader wraps its work in `with stage("decode"):`. Without a recorder, a stage costs 0.1 us. Stages
wrap parts and files, never rows.
"""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple, Self

Stage = Literal["part", "plan", "read", "load", "pandas", "decode", "convert", "gather", "cache"]
"""The work of a thread:

- `part`: work on a part outside the other stages;
- `plan`: listing, checking files and footers, comparing schemas;
- `read`: bytes from files; `decode`: columns from bytes; `load`: both, in one library call;
- `pandas`: `pandas.read_parquet`, which loads and converts;
- `convert`: columns to the delivered form;
- `gather`: drawing an order, and copying rows in that order;
- `cache`: cache lookups, and storing data in the cache.
"""


class Mark(NamedTuple):
    """A thread entered a stage, or left its innermost one (None), at a time of `perf_counter`."""

    thread: int
    at: float
    stage: Stage | None


class Recorder:
    """Records the stages of all threads of this process, within a `with` block.

    Only one recorder can be active at a time. Stages may be nested.
    """

    def __init__(self) -> None:
        self.marks: list[Mark] = []

    def __enter__(self) -> Self:
        global _recorder  # noqa: PLW0603 - `stage` must find it
        if _recorder is not None:
            raise RuntimeError("the stages of this process are already being recorded")
        _recorder = self
        return self

    def __exit__(self, *_: object) -> None:
        global _recorder  # noqa: PLW0603 - the same
        _recorder = None


class _RecordedStage:
    def __init__(self, marks: list[Mark], stage: Stage) -> None:
        self._marks, self._stage = marks, stage

    def __enter__(self) -> None:
        self._marks.append(Mark(threading.get_ident(), time.perf_counter(), self._stage))

    def __exit__(self, *_: object) -> None:
        self._marks.append(Mark(threading.get_ident(), time.perf_counter(), None))


_recorder: Recorder | None = None
_NOT_RECORDED = nullcontext()


def stage(name: Stage) -> AbstractContextManager[None]:
    """Record that the calling thread is in a stage during the block."""
    recorder = _recorder
    return _NOT_RECORDED if recorder is None else _RecordedStage(recorder.marks, name)
