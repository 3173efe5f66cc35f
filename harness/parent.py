"""A process that has imported what trials need, and forks a child for each launch.

To start Python and to import takes seconds, a fork milliseconds. It has imported only: no pool of
threads has been started and no framework has run anything, for neither outlives a fork. What it
says first is whether importing left it so. OpenBLAS and jemalloc, which come with numpy and Arrow,
have threads from the start, and see to it themselves when a process forks (their handlers of
pthread_atfork(3)).
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import socket
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from ..loaders import own
from ..loaders.backends import find_backend
from .child import serve
from .known import register_known
from .procfs import set_parent_death_signal
from .protocol import (
    LOOK_HERE,
    STACKS_SIGNAL,
    Fork,
    Forked,
    FromParent,
    Imported,
    Reaped,
    ToParent,
)
from .threads import thread_count
from .units import counted

MAX_MESSAGE = 1 << 16
STREAMS = (0, 1, 2)  # that a child gets: what it is asked, what it answers, what goes wrong


def main() -> None:
    """Import, and fork as often as the harness asks."""
    harness, descriptor, *arguments = sys.argv[1:]
    set_parent_death_signal(parent=int(harness))
    channel = socket.socket(fileno=int(descriptor))
    if LOOK_HERE in arguments:
        own.look_in_current_folder()
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    register_known()
    before = thread_count()
    for name in arguments:
        if name != LOOK_HERE:
            _import(name)
    _say(channel, Imported(why_not=_why_not(before), files=_files()))
    decode = msgspec.json.Decoder(ToParent).decode
    while True:
        line, streams, _, _ = socket.recv_fds(channel, MAX_MESSAGE, len(STREAMS))
        if not line:
            return
        request = decode(line)
        if isinstance(request, Fork):
            _say(channel, Forked(pid=_fork(request, streams, channel)))
        else:
            _, status = os.waitpid(request.pid, 0)
            _say(channel, Reaped(code=os.waitstatus_to_exitcode(status)))


def _import(name: str) -> None:
    """Import a module, or that of a user's loader, named like `package.module:function`."""
    if ":" in name:
        find_backend(name, typed=True)
    else:
        importlib.import_module(name)


def _files() -> dict[str, int]:
    """The files of imported modules that are not installed, and when they were last changed."""
    installed = tuple({path + os.sep for path in sysconfig.get_paths().values()})
    found = {}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path and not path.startswith(installed):
            with contextlib.suppress(OSError):  # in an archive, or gone by now
                found[path] = Path(path).stat().st_mtime_ns
    return found


def _why_not(before: int) -> str | None:
    """Why no child can be forked from this process, if so.

    Args:
        before: the threads that it had before it imported what loaders need.
    """
    more = thread_count() - before
    if more > 0:
        return f"importing what it needs started {counted(more, 'more thread')}"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "importing what it needs initialised CUDA"
    return None


def _say(channel: socket.socket, answer: FromParent) -> None:
    channel.sendall(msgspec.json.encode(answer))


def _fork(request: Fork, streams: Sequence[int], channel: socket.socket) -> int:
    """A child that serves requests from the streams; its process id."""
    parent = os.getpid()
    child = os.fork()
    if not child:
        _serve(request, streams, channel, parent)
    for stream in streams:
        os.close(stream)
    # By whichever of both is first, so that the group is there when the harness ends it.
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    return child


def _serve(request: Fork, streams: Sequence[int], channel: socket.socket, parent: int) -> NoReturn:
    """Be a child: answer requests, and end."""
    code = 1
    try:
        os.setpgid(0, 0)
        set_parent_death_signal(parent)
        channel.close()
        for stream, place in zip(streams, STREAMS, strict=True):
            os.dup2(stream, place)
            os.close(stream)
        answers = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        os.environ.update(request.environment)
        with os.fdopen(0, "rb", closefd=False) as requests:
            serve(requests, answers)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does at the end of a program
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
