"""The results journal: a header, then one JSON line for each sample, only ever appended to."""

from __future__ import annotations

import math
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Self

import msgspec

from ...loaders.base.errors import (
    UNREADABLE,
    DocumentError,
    FeedrateError,
    InputError,
    StorageError,
    shown,
)
from ...loaders.base.machine import Machine
from ...loaders.base.settings import LoaderSettings
from ...loaders.choosing.profile import Job
from ...loaders.parquet.dataset import Dataset
from ..system.pagecache import PageCacheState

FORMAT: Final = "feedrate-results"
# 1: header with spec, environment and dataset; samples with metrics, reasons, arm and launch.
# 2: the phase `explaining`; version 1 wrote these samples as `confirming`, rounds from 1000 on.
# 2 still: `verified_every`, 1 if missing; older readers show `reasons["verified"]` instead.
# 2 still: `asked`, empty if missing; older readers do not know about untried settings.
# 3: `confirming` is every timed launch. Version 2 also had `screening`, in processes that trials
#    shared; these samples are left out on reading. New phase `memory`, whose launches are not for
#    comparing times; version 2 measured memory in `confirming`.
VERSION = 3
_EXPLAINED_FROM, _ALL_LAUNCHED = 1000, 3

Phase = Literal["screening", "confirming", "explaining", "memory"]
"""Gate: `screening` for the first pairs, `confirming` for those that confirm. Sweep: `confirming`
for timed launches, `explaining` for stages measured alone, `memory` for memory."""
Verdict = Literal[
    "ok",
    "unverified",
    "wrong-rows",
    "error",
    "crash",
    "hang",
    "out-of-memory",
    "shm-full",
    "idle-workers",
]

REMEDIES: dict[Verdict, str] = {
    "hang": "if it is only slow, raise --timeout; else its stacks are in the results",
    "out-of-memory": "fewer workers, less prefetch, another cache or fewer columns need less",
    "shm-full": "enlarge /dev/shm (docker run --shm-size=…), or use threads or fewer workers",
    "crash": "run it alone with --debug; a crash inside a library is best reported there",
    "idle-workers": "more than 2 workers do the same here: small files are decoded several in one"
    " part, from 2 workers on by polars, which has threads of its own",
}
"""What to do about a trial that ended with a verdict."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Asked(msgspec.Struct, frozen=True):
    """The planned measurements of a job."""

    files: int
    """The largest number of files."""
    settings: int
    """The number of settings planned with that many files."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line: the planned measurements, the machine and the data.

    `format` and `version` come first, so that a file's first bytes identify it.
    """

    format: Literal["feedrate-results"] = FORMAT
    version: int = VERSION
    created: str = msgspec.field(default_factory=_now)
    """UTC, ISO 8601."""
    spec: dict[str, Any]
    environment: Machine
    dataset: Dataset
    command: str = ""
    """The command line that measured it; empty if not recorded."""
    planned: int = 0
    """Number of planned trials; 0 if not recorded."""
    asked: dict[Job, Asked] = {}
    """The planned measurements, by job."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one pass of a trial in one round: one line."""

    trial: str
    """Stable id of job, dataset and settings."""
    job: Job
    backend: str
    settings: LoaderSettings
    files: int
    phase: Phase
    round: int
    pass_: int = msgspec.field(name="pass")
    """0 is the pass that fills the caches."""
    rows: int | None
    fingerprint: str | None
    verdict: Verdict
    metrics: dict[str, float | None]
    """By the names of `METRICS`; None if it could not be measured."""
    reasons: dict[str, str]
    """By metric: why it is None, or what it is about (the files that pandas read, the columns that
    are left out). By `verdict`: what went wrong. By `page_cache`: why it is unknown. By `verified`:
    the sample of files on which rows were compared."""
    arm: str | None = None
    """The side of a gate's comparison."""
    launch: int = 0
    """The launch of the child process that it came from: the unit that intervals count."""
    run_s: float = 0.0
    """Duration of the run that it came from, including start, all passes and verification."""
    threads: dict[str, int] = {}
    """Threads of the process and of its libraries' pools at the end of the trial, and the requested
    pool sizes by environment variable."""
    page_cache: PageCacheState = "as-is"
    """State of the files when the pass began; `unknown`: it could not be established."""
    verified_every: int = 1
    """The sample of files that the verdict and the fingerprint cover, by the rule of `picked`:
    every n-th file and the last; 1 is all of them."""
    passes: int | None = None
    """Planned passes of its launch, if fewer than those of the sweep's other launches."""


@dataclass(frozen=True)
class Results:
    """The content of a journal."""

    header: Header
    samples: list[Sample]
    truncated: bool
    """Whether the last line was cut off, as by a killed sweep; it is left out."""
    left_out: int = 0
    """Number of samples of an earlier version that were left out: their trials shared processes."""

    @property
    def passes(self) -> int | None:
        """Planned passes of each run; None if not recorded."""
        found = self.header.spec.get("passes")
        return found if isinstance(found, int) and not isinstance(found, bool) else None


class Journal:
    """A results file that is open for appending.

    Each line goes to the system in one write, so that a killed process leaves whole lines and at
    most one cut line. It is not synced to disk: only a crash of the machine could lose more.
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
        line = encode_line(header)  # first, so that a header that cannot be encoded leaves no file
        journal = cls(path, _open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        try:
            journal._lock()
            if overwrite:
                os.ftruncate(journal._descriptor_open(), 0)
            if path.stat().st_size:
                raise InputError(
                    f"{path} holds results already; add to them with --resume, or name another file"
                )
            journal._write(line)
        except FeedrateError:
            journal.close()
            raise
        return journal

    @classmethod
    def resume(cls, path: str | Path) -> tuple[Self, Results]:
        """Open a journal to add to it; a last line that was cut off is removed first.

        Raises:
            DocumentError: the file is no journal, see `read_results`.
            InputError: it is of an older version, or another process is writing to it.
            StorageError: the file is missing or cannot be written.
        """
        path = Path(path)
        _read(path)  # raises the clearest errors
        journal = cls(path, _open(path, os.O_WRONLY | os.O_APPEND))
        try:
            journal._lock()
            return journal, journal._continued()
        except FeedrateError:
            journal.close()
            raise

    def _continued(self) -> Results:
        """Return the existing results; a last line that was cut off is removed."""
        path = self.path
        content = _read(path)
        results = _parse(content, path)
        if results.header.version != VERSION:
            raise InputError(
                f"{path} has results version {results.header.version}, which this feedrate reads "
                f"and does not add to (it writes {VERSION}); name another file"
            )
        if results.truncated:
            os.ftruncate(self._descriptor_open(), content.rfind(b"\n") + 1)
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
            fcntl.flock(self._descriptor_open(), fcntl.LOCK_EX | fcntl.LOCK_NB)
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

    def _descriptor_open(self) -> int:
        if self._descriptor is None:
            raise StorageError(f"{self.path} is closed; open it again with Journal.resume")
        return self._descriptor

    def _write(self, line: bytes) -> None:
        descriptor = self._descriptor_open()
        before = os.fstat(descriptor).st_size
        try:
            written = os.write(descriptor, line)
            while written < len(line):  # only where the disk or a quota is about to be full
                written += os.write(descriptor, line[written:])
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(descriptor, before)
            raise StorageError(
                f"cannot write {self.path}: {error.strerror}; what was measured before is kept"
            ) from error


def new_results_file() -> Path:
    """Create an empty file in the temporary folder, for users who name no journal."""
    handle, name = tempfile.mkstemp(
        prefix=f"feedrate-{datetime.now(UTC):%Y%m%d-%H%M%S}-", suffix=".jsonl"
    )
    os.close(handle)
    return Path(name)


def read_results(path: str | Path) -> Results:
    """Read a journal; a last line that was cut off is left out and reported as `truncated`.

    Raises:
        StorageError: the file is missing or cannot be read.
        DocumentError: it is empty, damaged, of a newer version, or no results file; the message
            names the line.
    """
    path = Path(path)
    return _parse(_read(path), path)


def read_sweep(path: str | Path) -> Results:
    """Read a journal of `tune` or `sweep`; raises as `read_results` does.

    Raises:
        InputError: it is the journal of a gate, whose samples are of two revisions.
    """
    found = read_results(path)
    if "gate" in found.header.spec:
        raise InputError(
            f"{path} is of a gate, which compares two revisions and recommends nothing; name "
            "results of feedrate tune or sweep"
        )
    return found


def _parse(content: bytes, path: Path) -> Results:
    first, *lines = content.split(b"\n")
    header = _parse_header(first, content, path)
    shared = header.version < _ALL_LAUNCHED and "gate" not in header.spec
    decoder = msgspec.json.Decoder(Sample)
    samples: list[Sample] = []
    left_out = 0
    for number, line in enumerate(lines, start=2):
        try:
            if line.strip():
                sample = _upgraded(decoder.decode(line))
                if shared and sample.phase == "screening":
                    left_out += 1
                else:
                    samples.append(sample)
        except msgspec.ValidationError as error:
            raise DocumentError(f"{path}, line {number}: no sample of feedrate: {error}") from error
        except UNREADABLE as error:
            if number == len(lines) + 1:  # no newline ends this line: its writer was killed
                return Results(header, samples, truncated=True, left_out=left_out)
            raise DocumentError(
                f"{path}, line {number} is damaged: {error}; remove that line, or measure again "
                "into another file"
            ) from error
    return Results(header, samples, truncated=False, left_out=left_out)


def _upgraded(sample: Sample) -> Sample:
    """Convert a sample to what this version writes."""
    if sample.phase == "confirming" and sample.round >= _EXPLAINED_FROM:
        round_ = sample.round - _EXPLAINED_FROM
        return msgspec.structs.replace(sample, phase="explaining", round=round_)
    return sample


def _parse_header(line: bytes, content: bytes, path: Path) -> Header:
    if not content.strip():
        raise DocumentError(f"{path} is empty; name a file that `feedrate sweep` or `tune` wrote")
    try:
        found = msgspec.json.decode(line)
    except UNREADABLE:
        if b"\n" not in content and _starts_like_a_header(content):
            raise DocumentError(
                f"{path}: its header is cut off and no sample follows; remove it and measure again"
            ) from None
        found = _whole_document(content, path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        kind = found.get("format") if isinstance(found, dict) else None
        what = f"a {shown(kind)[1:-1]} document" if isinstance(kind, str) else "some other JSON"
        raise DocumentError(f"{path} is {what}, no {FORMAT} file; name one that feedrate wrote")
    version = found.get("version")
    if isinstance(version, int) and version > VERSION:
        raise DocumentError(
            f"{path} was written by a newer feedrate (results version {shown(version)}, this one "
            f"reads up to {VERSION}); upgrade feedrate"
        )
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DocumentError(f"{path}: results version {shown(version)} is unknown; measure again")
    try:
        return msgspec.convert(found, Header)
    except msgspec.ValidationError as error:
        raise DocumentError(f"{path}, line 1: no header of feedrate: {error}") from error


def _starts_like_a_header(content: bytes) -> bool:
    start = f'{{"format":"{FORMAT}"'.encode()
    return content.startswith(start) or start.startswith(content)


def _whole_document(content: bytes, path: Path) -> object:
    """The file as one JSON document over several lines, such as a profile."""
    try:
        return msgspec.json.decode(content)
    except UNREADABLE as error:
        raise DocumentError(
            f"{path} is no {FORMAT} file, its first line is not JSON; name one that feedrate wrote"
        ) from error


def encode_line(record: Header | Sample) -> bytes:
    """A line of a journal."""
    return msgspec.json.encode(record) + b"\n"


def _without_infinities(sample: Sample) -> Sample:
    odd = {
        name: value
        for name, value in sample.metrics.items()
        if value is not None and not math.isfinite(value)
    }
    if not odd:
        return sample
    return msgspec.structs.replace(
        sample,
        metrics={**sample.metrics, **dict.fromkeys(odd)},
        reasons={name: f"came out as {value}" for name, value in odd.items()} | sample.reasons,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read results from {path}: {error.strerror}") from error


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
    except FileNotFoundError as error:
        raise StorageError(
            f"cannot write {path}: there is no folder {path.parent}; create it first"
        ) from error
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}; name a file in a folder you can write to"
        ) from error
