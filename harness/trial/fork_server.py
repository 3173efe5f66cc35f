"""A process that imports the modules that trials need, and forks a child for each launch.

Starting Python and importing takes seconds, a fork milliseconds. The server only imports: it starts
no thread pool and runs no framework, since neither survives a fork. If an import did, the first
message says so. OpenBLAS and jemalloc, which come with numpy and Arrow, have threads from the start
and handle forks themselves (by pthread_atfork(3)).
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

from ...loaders.choosing import custom
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
YOUNG = 1  # garbage generation of most objects that a child makes, and few imported ones
_NOT_INITIALISED = 3  # CUDA_ERROR_NOT_INITIALIZED, of the CUDA driver API


def main() -> None:
    """Import modules, and fork a child for each request of the harness."""
    harness, descriptor, imports, *options = sys.argv[1:]
    set_parent_death_signal(parent=int(harness))
    channel = socket.socket(fileno=int(descriptor))
    if LOOK_HERE in options:
        custom.look_in_current_folder()
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    register_known()
    threads, opened, random = thread_count(), _descriptors(), _random_state()
    # Importing TensorFlow makes half a million objects, and collecting garbage during the import
    # took a fifth of its time. So garbage is collected once here; children collect younger objects.
    # If `gc.freeze` hid these objects from the collector, children collected more often than other
    # processes do: loads by pandas took a quarter longer.
    gc.disable()
    _import(msgspec.json.decode(imports, type=Imports))
    gc.enable()
    gc.collect()
    obstacle = _fork_obstacle(thread_count() - threads, len(_descriptors() - opened))
    _send(channel, Imported(why_not=obstacle))
    Server(channel, is_seeded=_random_state() != random).serve()


def _import(imports: Imports) -> None:
    for name in imports.modules:
        importlib.import_module(name)
    for name in imports.loaders:
        find_backend(name, named_by_caller=True)


def _fork_obstacle(threads: int, opened: int) -> str | None:
    """Why no child can be forked from this process; None if it can.

    Args:
        threads: number of threads that the imports started.
        opened: number of files, sockets and pipes that the imports left open.
    """
    if threads > 0:
        return f"the imports started {counted(threads, 'thread')}"
    if opened > 0:  # forks would share a file's position and a connection's bytes
        return f"the imports left {counted(opened, 'descriptor')} open, of files or sockets"
    if _cuda_is_initialised(read_proc("/proc/self/maps")):
        return "the imports initialised CUDA"
    return None


def _descriptors() -> set[tuple[str, str]]:
    """The open descriptors of this process, each with its target."""
    descriptors = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            descriptors.add((path.name, str(path.readlink())))
    return descriptors


def _cuda_is_initialised(maps: str) -> bool:
    """Whether the CUDA driver is loaded and initialised: a fork could not use it."""
    if "/libcuda.so" not in maps:
        return False
    try:
        count = ctypes.CDLL("libcuda.so.1").cuDeviceGetCount
    except (OSError, AttributeError):
        return True  # unknown
    return bool(count(ctypes.byref(ctypes.c_int())) != _NOT_INITIALISED)


class Server:
    """Forks and reaps children at the harness's request.

    Args:
        channel: to the harness.
        is_seeded: whether an import has seeded numpy's global generator. If not, each child seeds
            it anew, as a new process does, and as Python does with its own generator.
    """

    def __init__(self, channel: socket.socket, *, is_seeded: bool) -> None:
        self._channel = channel
        self._is_seeded = is_seeded
        self._files = _uninstalled_files()
        # An imported module may have changed the handler so that it reaps children by itself.
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
                _send(self._channel, self._fork(request, streams))
            else:
                _, status = os.waitpid(request.pid, 0)
                _send(self._channel, Reaped(code=os.waitstatus_to_exitcode(status)))

    def _fork(self, request: Fork, streams: Sequence[int]) -> Forked | Refused:
        """Fork a child that serves requests from the streams."""
        server_pid = os.getpid()
        try:
            if _uninstalled_files() != self._files:
                return Refused(why="imported code was changed")
            child = os.fork()
            if not child:
                self._be_child(request, streams, server_pid)
        except OSError as error:
            return Refused(why=f"fork: {error.strerror}")
        finally:
            for stream in streams:
                os.close(stream)
        # Parent and child both do this, so that the group exists when the harness ends it.
        with contextlib.suppress(OSError):
            os.setpgid(child, child)
        return Forked(pid=child)

    def _be_child(self, request: Fork, streams: Sequence[int], server_pid: int) -> NoReturn:
        """Answer requests in the child, and exit."""
        code = 1
        try:
            os.setpgid(0, 0)
            set_parent_death_signal(server_pid)
            self._channel.close()
            for stream, number in zip(streams, STREAMS, strict=True):
                os.dup2(stream, number)
                os.close(stream)
            answers = os.fdopen(os.dup(1), "wb", buffering=0)
            os.dup2(2, 1)
            signal.signal(signal.SIGCHLD, self._sigchld)
            os.environ.update(request.environment)
            if not self._is_seeded:
                np.random.seed()  # noqa: NPY002 - loaders share the global generator
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
    _, key, position, *_ = np.random.get_state()  # noqa: NPY002 - the global one
    return np.asarray(key).tobytes() + str(position).encode()


def _uninstalled_files() -> dict[str, int]:
    """The files of imported modules that are not installed, with their modification times."""
    installed = tuple({path + os.sep for path in sysconfig.get_paths().values()})
    changed_ns = {}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and not path.startswith(installed):
            try:
                changed_ns[path] = Path(path).stat().st_mtime_ns
            except OSError:  # in an archive, or gone by now
                changed_ns[path] = 0
    return changed_ns


def _send(channel: socket.socket, answer: FromForkServer) -> None:
    channel.sendall(msgspec.json.encode(answer))


if __name__ == "__main__":
    main()
