"""The process that a trial runs in: reads requests, runs them one by one, answers."""

from __future__ import annotations

import faulthandler
import os
import sys
from functools import partial
from typing import IO, BinaryIO

import msgspec

from ...loaders.choosing import custom
from ..system.procfs import set_parent_death_signal
from .known import register_known
from .protocol import (
    LOOK_HERE,
    STACKS_SIGNAL,
    FromChild,
    Go,
    OpenData,
    PassDone,
    Ready,
    RunRank,
    ToChild,
)
from .session import ALL, Session


def main() -> None:
    """Serve requests until the harness closes the pipe or dies."""
    set_parent_death_signal(parent=int(sys.argv[1]))
    if LOOK_HERE in sys.argv[2:]:
        custom.look_in_current_folder()
    faulthandler.register(STACKS_SIGNAL, all_threads=True)  # for the harness to locate a hang
    # Text that libraries print must not mix with our lines.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    register_known()
    serve(sys.stdin.buffer, answers)


def serve(requests: BinaryIO, answers: IO[bytes], generation: int = ALL) -> None:
    """Answer each request; return when there are no more, or when a trial gets no `Go`.

    Args:
        requests: lines of `ToChild`.
        answers: receives lines of `FromChild`.
        generation: as in `Session`.
    """
    lines = map(msgspec.json.Decoder(ToChild).decode, iter(requests.readline, b""))
    session: Session | None = None
    for request in lines:
        if isinstance(request, OpenData):
            session = Session(request.data, generation)
            continue
        if session is None or isinstance(request, Go):
            raise RuntimeError(f"{type(request).__name__} came too early")
        if isinstance(request, RunRank):
            session.run_rank(request, partial(_write, answers))
            continue
        for answer in session.answers(request):
            _write(answers, answer)
            needs_go = isinstance(answer, Ready | PassDone)
            if needs_go and not isinstance(next(lines, None), Go):
                return


def _write(answers: IO[bytes], answer: FromChild) -> None:
    answers.write(msgspec.json.encode(answer) + b"\n")


if __name__ == "__main__":
    main()
