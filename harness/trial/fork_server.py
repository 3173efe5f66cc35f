"""A process that has imported what trials need, and forks a child for each launch.

Starting Python and importing takes seconds, a fork milliseconds. The server has only imported: no
thread pool was started and no framework has run anything, since neither survives a fork. It says
first whether importing left it so. OpenBLAS and jemalloc, which come with numpy and Arrow, have
threads from the start and handle forks themselves (by pthread_atfork(3)).
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import signal
import socket
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import msgspec
import numpy as np

from ...loaders.choosing import custom as own
from ...loaders.choosing.registry import find_backend
from ..system.procfs import read_proc, set_parent_death_signal
from ..system.threads import thread_count
from ..system.units import counted
from .child import serve
from .known import register_known
from .protocol import (
    LOOK_HERE,
    MAX_MESSAGE,
    STACKS_SIGNAL,
    Fork,
    Forked,
    FromForkServer,
    Imported,
    Imports,
    Reaped,
    Refused,
    ToForkServer,
)

STREAMS = (0, 1, 2)  # of a child: requests, answers, errors
YOUNG = 1  # generation that most of what a child makes is in, and hardly anything imported before
_NOT_INITIALISED = 3  # CUDA_ERROR_NOT_INITIALIZED, of the CUDA driver API


def main() -> None:
    """Import, and fork as often as the harness asks."""
    harness, descriptor, imports, *options = sys.argv[1:]
    set_parent_death_signal(parent=int(harness))
    channel = socket.socket(fileno=int(descriptor))
    if LOOK_HERE in options:
        own.look_in_current_folder()
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    register_known()
    threads, opened, random = thread_count(), _descriptors(), _random_state()
    # Importing TensorFlow makes half a million objects, and collecting garbage among them meanwhile
    # took a fifth of its time. It is collected once here; children collect what is younger. With
    # these objects hidden from the collector (`gc.freeze`) children collected more often than other
    # processes do: loads by pandas took a quarter longer.
    gc.disable()
    _import(msgspec.json.decode(imports, type=Imports))
    gc.enable()
    gc.collect()
    why_not = _why_not(thread_count() - threads, len(_descriptors() - opened))
    _say(channel, Imported(why_not=why_not))
    Server(channel, is_seeded=_random_state() != random).serve()


def _import(imports: Imports) -> None:
    for name in imports.modules:
        importlib.import_module(name)
    for name in imports.loaders:
        find_backend(name, typed=True)


def _why_not(threads: int, opened: int) -> str | None:
    """Why no child can be forked from this process; None if it can.

    Args:
        threads: how many were started by importing what trials need.
        opened: how many files, sockets and pipes it left open.
    """
    if threads > 0:
        return f"importing what it needs started {counted(threads, 'thread')}"
    if opened > 0:  # forks would share a file's position and a connection's bytes
        what = counted(opened, "descriptor")
        return f"importing what it needs left {what} open, of files or sockets"
    if _cuda_is_initialised(read_proc("/proc/self/maps")):
        return "importing what it needs initialised CUDA"
    return None


def _descriptors() -> set[tuple[str, str]]:
    """The open descriptors of this process, with what they are of."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the listing itself
            found.add((path.name, str(path.readlink())))
    return found


def _cuda_is_initialised(maps: str) -> bool:
    """Whether the CUDA driver, if it is loaded, was initialised: a fork cannot use it then."""
    if "/libcuda.so" not in maps:
        return False
    try:
        count = ctypes.CDLL("libcuda.so.1").cuDeviceGetCount
    except (OSError, AttributeError):
        return True  # unknown
    return bool(count(ctypes.byref(ctypes.c_int())) != _NOT_INITIALISED)


class Server:
    """Forks and reaps children, as the harness asks.

    Args:
        channel: to the harness.
        is_seeded: whether an import has seeded numpy's global generator. If not, each child seeds
            it anew, as a new process does, and as Python does for its own.
    """

    def __init__(self, channel: socket.socket, *, is_seeded: bool) -> None:
        self._channel = channel
        self._is_seeded = is_seeded
        self._files = _own_files()
        # An imported module may have changed it, and ended children would then be reaped unasked.
        self._sigchld = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def serve(self) -> None:
        """Answer requests until the harness closes the channel."""
        decode = msgspec.json.Decoder(ToForkServer).decode
        while True:
            line, streams, _, _ = socket.recv_fds(self._channel, MAX_MESSAGE, len(STREAMS))
            if not line:
                return
            request = decode(line)
            if isinstance(request, Fork):
                _say(self._channel, self._fork(request, streams))
            else:
                _, status = os.waitpid(request.pid, 0)
                _say(self._channel, Reaped(code=os.waitstatus_to_exitcode(status)))

    def _fork(self, request: Fork, streams: Sequence[int]) -> Forked | Refused:
        """Fork a child that serves requests from the streams."""
        server = os.getpid()
        try:
            if _own_files() != self._files:
                return Refused(why="code that it has imported was changed")
            child = os.fork()
            if not child:
                self._be_child(request, streams, server)
        except OSError as error:
            return Refused(why=f"fork: {error.strerror}")
        finally:
            for stream in streams:
                os.close(stream)
        # Both do it, so that the group exists when the harness ends it.
        with contextlib.suppress(OSError):
            os.setpgid(child, child)
        return Forked(pid=child)

    def _be_child(self, request: Fork, streams: Sequence[int], server: int) -> NoReturn:
        """Answer requests, and end."""
        code = 1
        try:
            os.setpgid(0, 0)
            set_parent_death_signal(server)
            self._channel.close()
            for stream, place in zip(streams, STREAMS, strict=True):
                os.dup2(stream, place)
                os.close(stream)
            answers = os.fdopen(os.dup(1), "wb", buffering=0)
            os.dup2(2, 1)
            signal.signal(signal.SIGCHLD, self._sigchld)
            os.environ.update(request.environment)
            if not self._is_seeded:
                np.random.seed()  # noqa: NPY002 - it is the global one that loaders share
            with os.fdopen(0, "rb", closefd=False) as requests:
                serve(requests, answers, YOUNG)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:  # noqa: BLE001 - as the interpreter does at the end of a program
            traceback.print_exc()
        finally:
            os._exit(code)


def _random_state() -> bytes:
    """The state of numpy's global generator."""
    _, key, place, *_ = np.random.get_state()  # noqa: NPY002 - it is the global one
    return np.asarray(key).tobytes() + str(place).encode()


def _own_files() -> dict[str, int]:
    """The files of imported modules that are not installed, with the times of their last change."""
    installed = tuple({path + os.sep for path in sysconfig.get_paths().values()})
    found = {}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and not path.startswith(installed):
            try:
                found[path] = Path(path).stat().st_mtime_ns
            except OSError:  # in an archive, or gone by now
                found[path] = 0
    return found


def _say(channel: socket.socket, answer: FromForkServer) -> None:
    channel.sendall(msgspec.json.encode(answer))


if __name__ == "__main__":
    main()
