"""Write a results journal: a header, then one JSON line per sample, only ever appended to."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import msgspec

from ...loaders.base.errors import FeedrateError, InputError, StorageError
from .results import Header, Results, Sample, parse_results, read_content


def new_results_file() -> Path:
    """Create an empty file in the temporary folder, for users who name no journal."""
    descriptor, name = tempfile.mkstemp(
        prefix=f"feedrate-{datetime.now(UTC):%Y%m%d-%H%M%S}-", suffix=".jsonl"
    )
    os.close(descriptor)
    return Path(name)


class Journal:
    """A results file that is open for appending.

    Each line is one write to the system, so that a killed process leaves whole lines and at most
    one that is cut off. Nothing is synced to disk: only a crash of the machine can lose more.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def create(cls, path: str | Path, header: Header, *, overwrite: bool = False) -> Self:
        """Start a new journal.

        Raises:
            InputError: the file is not empty and `overwrite` is not set, or another process is
                writing to it.
            StorageError: the file cannot be written.
        """
        path = Path(path)
        line = encode_line(header)  # if this fails, no file is left behind
        journal = cls(path, _open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        with journal._closed_on_error():
            journal._lock()
            if overwrite:
                os.ftruncate(journal._open_descriptor(), 0)
            if path.stat().st_size:
                raise InputError(
                    f"{path} holds results already; add to them with --resume, or name another file"
                )
            journal._write(line)
        return journal

    @classmethod
    def resume(cls, path: str | Path) -> tuple[Self, Results]:
        """Open a journal to add to it; a last line that was cut off is removed first.

        Raises:
            DocumentError: the file is no journal, see `read_results`.
            InputError: another process is writing to it.
            StorageError: the file is missing or cannot be written.
        """
        path = Path(path)
        read_content(path)  # raises the clearest errors
        journal = cls(path, _open(path, os.O_WRONLY | os.O_APPEND))
        with journal._closed_on_error():
            journal._lock()
            return journal, journal._continued()

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """Close the file if the block fails; an `OSError` becomes a `StorageError`."""
        try:
            yield
        except FeedrateError:  # a StorageError is also an OSError
            self.close()
            raise
        except OSError as error:
            self.close()
            raise StorageError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _continued(self) -> Results:
        """Return the existing results; a last line that was cut off is removed."""
        path = self.path
        content = read_content(path)
        results = parse_results(content, path)
        if results.truncated:
            os.ftruncate(self._open_descriptor(), content.rfind(b"\n") + 1)
        elif not content.endswith(b"\n"):  # cut off just before the line's end
            self._write(b"\n")
        return results

    def _lock(self) -> None:
        """Lock the file against other processes that write to it, if the system can."""
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        try:
            fcntl.flock(self._open_descriptor(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another feedrate is writing to {self.path}; wait for it, or name another file"
            ) from error
        except OSError:  # a file system without locks
            return

    def append(self, sample: Sample) -> None:
        """Add a sample; a metric that is not finite becomes None, with that reason.

        Raises:
            StorageError: it could not be written (a full disk); the journal keeps whole lines.
        """
        self._write(encode_line(_without_infinities(sample)))

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise StorageError(f"{self.path} is closed; open it again with Journal.resume")
        return self._descriptor

    def _write(self, line: bytes) -> None:
        descriptor = self._open_descriptor()
        size = os.fstat(descriptor).st_size
        try:
            written = os.write(descriptor, line)
            while written < len(line):  # the disk or a quota is nearly full
                written += os.write(descriptor, line[written:])
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise StorageError(
                f"cannot write {self.path}: {error.strerror}; earlier samples are kept"
            ) from error


def encode_line(record: Header | Sample) -> bytes:
    """A line of a journal."""
    return msgspec.json.encode(record) + b"\n"


def _without_infinities(sample: Sample) -> Sample:
    not_finite = {
        name: value
        for name, value in sample.metrics.items()
        if value is not None and not math.isfinite(value)
    }
    if not not_finite:
        return sample
    return msgspec.structs.replace(
        sample,
        metrics={**sample.metrics, **dict.fromkeys(not_finite)},
        reasons={name: f"came out as {value}" for name, value in not_finite.items()}
        | sample.reasons,
    )


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as error:
        if not path.parent.exists():
            raise StorageError(
                f"cannot write {path}: there is no folder {path.parent}; create it first"
            ) from error
        raise StorageError(
            f"cannot write {path}: {error.strerror}; name a file in a folder you can write to"
        ) from error
