"""Where the time of a load goes: stages that threads enter and leave, noted when somebody asks.

A loader says `with stage("decode"):` around what it does. Nobody listens in production, and then
a stage costs a tenth of a microsecond; it stands around parts and files, never around rows.
"""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple, Self

Stage = Literal["part", "plan", "read", "load", "pandas", "decode", "convert", "gather", "cache"]
"""What a thread does:

- `part`: whatever belongs to one piece of a worker's work and to no other stage;
- `plan`: listing, looking at files and footers, comparing schemas;
- `read`: bytes from files; `decode`: columns from bytes; `load`: both, where a library does both;
- `pandas`: all of that and the conversion, by `pandas.read_parquet`;
- `convert`: columns to what is delivered;
- `gather`: drawing an order, and copying rows in that order;
- `cache`: finding what is cached, and keeping what is not.
"""


class Mark(NamedTuple):
    """A thread entered a stage, or left its latest one (None), at a time of `perf_counter`."""

    thread: int
    at: float
    stage: Stage | None


class Recorder:
    """Listens to the stages of all threads of this process, within a `with` block.

    One listens at a time. Stages may lie within stages; what is noted is when each thread entered
    and left them.
    """

    def __init__(self) -> None:
        self.marks: list[Mark] = []

    def __enter__(self) -> Self:
        global _recorder  # noqa: PLW0603 - whoever enters a stage has to find it
        if _recorder is not None:
            raise RuntimeError("the stages of this process are being recorded already")
        _recorder = self
        return self

    def __exit__(self, *_: object) -> None:
        global _recorder  # noqa: PLW0603 - the same
        _recorder = None


class _Noted:
    def __init__(self, marks: list[Mark], stage: Stage) -> None:
        self._marks, self._stage = marks, stage

    def __enter__(self) -> None:
        self._marks.append(Mark(threading.get_ident(), time.perf_counter(), self._stage))

    def __exit__(self, *_: object) -> None:
        self._marks.append(Mark(threading.get_ident(), time.perf_counter(), None))


_recorder: Recorder | None = None
_SILENT = nullcontext()


def stage(name: Stage) -> AbstractContextManager[None]:
    """The calling thread is in a stage as long as the block lasts."""
    recorder = _recorder
    return _SILENT if recorder is None else _Noted(recorder.marks, name)
