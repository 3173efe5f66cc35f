"""The records of a results journal (a header, then one JSON line per sample), and reading them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from ...loaders.base.errors import UNREADABLE, DocumentError, InputError, StorageError, shown
from ...loaders.base.machine import Machine
from ...loaders.base.settings import LoaderSettings
from ...loaders.choosing.profile import Job
from ...loaders.parquet.dataset import Dataset
from ...loaders.remote.emulation import Emulation
from ..system.pagecache import PageCacheState

FORMAT: Final = "feedrate-results"
# 3: a header; samples with phases. No release wrote versions 1 and 2, which cannot be read.
VERSION = 3

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
    "idle-workers": "more than 2 workers are no faster here: several small files are decoded as one"
    " part, with 2 or more workers by polars, which has its own threads",
}
"""What to do about a trial that ended with a verdict."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Planned(msgspec.Struct, frozen=True):
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
    planned: dict[Job, Planned] = msgspec.field(name="asked", default_factory=dict)
    """The planned measurements, by job."""
    emulated: Emulation | None = None
    """The storage that was emulated; None if the data were read from where they are."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one pass of a trial in one round: one line."""

    trial: str
    """Stable id of job, settings and number of files."""
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
    """By metric: why it is None, or details (the files that pandas read, the columns that are left
    out). By `verdict`: the error. By `page_cache`: why it is unknown. By `verified`: the sample of
    files on which rows were compared."""
    arm: str | None = None
    """The side of a gate's comparison."""
    launch: int = 0
    """The launch of its child process: the unit that intervals count."""
    run_s: float = 0.0
    """Duration of its run, including start, all passes and verification."""
    threads: dict[str, int] = {}
    """Threads of the process and of its libraries' pools at the end of the trial, and the requested
    pool sizes by environment variable."""
    page_cache: PageCacheState = "as-is"
    """State of the files when the pass began; `unknown`: it could not be established."""
    verified_every: int = 1
    """The verdict and fingerprint cover every n-th file and the last, as in `picked`; 1: all."""
    passes: int | None = None
    """Planned passes of its launch, if fewer than those of the sweep's other launches."""


@dataclass(frozen=True)
class Results:
    """The content of a journal."""

    header: Header
    samples: list[Sample]
    truncated: bool
    """Whether the last line was cut off, as by a killed sweep; it is left out."""

    @property
    def passes(self) -> int | None:
        """Planned passes of each run; None if not recorded."""
        passes = self.header.spec.get("passes")
        return passes if isinstance(passes, int) and not isinstance(passes, bool) else None


def read_results(path: str | Path) -> Results:
    """Read a journal; a last line that was cut off is left out and reported as `truncated`.

    Raises:
        StorageError: the file is missing or cannot be read.
        DocumentError: as `parse_results`.
    """
    path = Path(path)
    return parse_results(read_content(path), path)


def read_sweep(path: str | Path) -> Results:
    """Read a journal of `tune` or `sweep`; raises as `read_results` does.

    Raises:
        InputError: it is the journal of a gate, whose samples are of two revisions.
    """
    results = read_results(path)
    if "gate" in results.header.spec:
        raise InputError(
            f"{path} is of a gate, which compares two revisions and recommends nothing; name "
            "results of feedrate tune or sweep"
        )
    return results


def parse_results(content: bytes, path: Path) -> Results:
    """Parse the content of a journal.

    Raises:
        DocumentError: it is empty, damaged, of another version, or no results file; the message
            names the line.
    """
    first, *lines = content.split(b"\n")
    header = _parse_header(first, content, path)
    decoder = msgspec.json.Decoder(Sample)
    samples: list[Sample] = []
    for number, line in enumerate(lines, start=2):
        try:
            if line.strip():
                samples.append(decoder.decode(line))
        except msgspec.ValidationError as error:
            raise DocumentError(f"{path}, line {number}: no sample of feedrate: {error}") from error
        except UNREADABLE as error:
            if number == len(lines) + 1:  # without a newline: the writer was killed
                return Results(header, samples, truncated=True)
            raise DocumentError(
                f"{path}, line {number} is damaged: {error}; remove that line, or measure again "
                "into another file"
            ) from error
    return Results(header, samples, truncated=False)


def _parse_header(line: bytes, content: bytes, path: Path) -> Header:
    if not content.strip():
        raise DocumentError(f"{path} is empty; name a file that `feedrate sweep` or `tune` wrote")
    try:
        document = msgspec.json.decode(line)
    except UNREADABLE:
        if b"\n" not in content and _starts_like_a_header(content):
            raise DocumentError(
                f"{path}: its header is cut off and no sample follows; remove it and measure again"
            ) from None
        document = _decode_all(content, path)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        kind = document.get("format") if isinstance(document, dict) else None
        actual = f"a {shown(kind)[1:-1]} document" if isinstance(kind, str) else "some other JSON"
        raise DocumentError(f"{path} is {actual}, no {FORMAT} file; name one that feedrate wrote")
    version = document.get("version")
    if isinstance(version, int) and version > VERSION:
        raise DocumentError(
            f"{path} was written by a newer feedrate (results version {shown(version)}, this one "
            f"reads {VERSION}); upgrade feedrate"
        )
    if version != VERSION:
        raise DocumentError(
            f"{path} has results version {shown(version)}, and this feedrate reads {VERSION}; "
            "measure again"
        )
    try:
        return msgspec.convert(document, Header)
    except msgspec.ValidationError as error:
        raise DocumentError(f"{path}, line 1: no header of feedrate: {error}") from error


def _starts_like_a_header(content: bytes) -> bool:
    start = f'{{"format":"{FORMAT}"'.encode()
    return content.startswith(start) or start.startswith(content)


def _decode_all(content: bytes, path: Path) -> object:
    """Decode a file that is one JSON document over several lines, such as a profile."""
    try:
        return msgspec.json.decode(content)
    except UNREADABLE as error:
        raise DocumentError(
            f"{path} is no {FORMAT} file, its first line is not JSON; name one that feedrate wrote"
        ) from error


def read_content(path: Path) -> bytes:
    """Read a file's bytes; `StorageError` if it is missing or cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read results from {path}: {error.strerror}") from error
