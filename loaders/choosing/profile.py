"""The profile: recommended settings for one machine and dataset, with the evidence."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

import msgspec

from ..base.atomic import replacing
from ..base.errors import UNREADABLE, DocumentError, InputError, StorageError, shown, unknown
from ..base.homes import profile_home, why_untrusted
from ..base.machine import Machine
from ..base.settings import LoaderSettings
from ..parquet.dataset import Dataset, real_folder
from ..remote.urls import is_url

Job = Literal["frame", "batches", "stream"]
Strength = Literal["strong", "tie", "weak"]
"""`strong`: no other settings are likely to be more than 5% faster. `tie`: none more than 15%
faster, and those that may be as good are named. `weak`: neither."""
JOBS: tuple[Job, ...] = ("frame", "batches", "stream")


def check_job(job: str) -> None:
    """Raise `InputError` for an unknown job."""
    if job not in JOBS:
        raise InputError(unknown("job", job, JOBS))


FORMAT = "feedrate-profile"
# 1: settings per job, data type and band of file counts, with evidence.
# 2: evidence with the rates of launches, the objective, the limiting stage and the Pareto front;
#    the dataset's kind of storage; when and by which command an entry was measured. New fields
#    may be missing, so that 1 can be read.
# 3: evidence may be a tie.
# 4: a profile of emulated storage is marked; earlier versions would use it.
VERSION = 4
HIGHEST_VERSION = 10_000  # a higher number is damage, not a newer format
PROFILE_VARIABLE = "FEEDRATE_PROFILE"
BESIDE_DATA = "feedrate.profile.json"


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """Rows per second, measured in separate launches."""

    rows_per_s: float
    low: float
    """With `high`, the interval for the rate of the median launch."""
    high: float
    lowest: float
    """The rate of the slowest launch."""
    confidence: float
    """Confidence of the interval; low with few launches."""
    launches: int


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that no others beat in both time and memory."""

    settings: LoaderSettings
    rows_per_s: float
    peak_pss_bytes: float | None


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence for a recommendation; times are totals over the declared passes, in seconds."""

    strength: Strength
    why: str
    """One sentence on the strength."""
    launches: int
    """Launches of these settings."""
    passes: int
    total_s: float
    first_pass_s: float
    rows: int
    rows_per_s: float
    """Over all passes."""
    speedup: float | None
    """The original's total time divided by this one; None if the original was not measured."""
    speedup_low: float | None
    speedup_high: float | None
    confidence: float | None
    """Confidence of the interval from `speedup_low` to `speedup_high`."""
    peak_pss_bytes: float | None
    objective: str = "throughput"
    """The criterion by which the settings were chosen."""
    columns: list[str] | None = None
    """The columns that were loaded; None for all."""
    first: Rate | None = None
    """Rate of the first pass, when nothing is cached."""
    later: Rate | None = None
    """Rate of the later passes."""
    total: Rate | None = None
    """Rate of all passes."""
    totals_s: list[float] = []
    """The total of each launch."""
    limiting_stage: str | None = None
    """The stage that takes the most time."""
    ceiling_s: float | None = None
    """The minimum time of this stage here."""
    limit: str | None = None
    """One sentence on what limits these settings and what would help."""
    front: list[Point] = []
    """The Pareto front of time and peak memory, fastest first."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The settings for one job, data type and band of file counts."""

    job: Job
    data_type: str | None
    files: int
    """The number of files that were measured."""
    max_files: int | None
    """The entry serves loads of up to this many files; None means no limit."""
    settings: LoaderSettings
    evidence: Evidence
    created: str | None = None
    """When it was measured; None means the profile's `created`."""
    command: str | None = None
    """The command that measured it; None means the profile's `command`."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Recommended settings with the fingerprints they hold for."""

    created: str
    command: str
    machine: Machine
    datasets: list[Dataset]
    entries: list[Entry]
    format: str = FORMAT
    version: int = VERSION
    emulated: str | None = None
    """The storage that was emulated while it was measured, in words; None for real storage."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read a profile.

        Raises:
            DocumentError: the file is missing, damaged, newer than this version, or no profile.
        """
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise DocumentError(
                f"cannot read profile {path}: {error.strerror or error}; "
                "make one with: feedrate tune DATA --profile FILE"
            ) from error
        return _decode(text, path)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the profile as one JSON object, replacing an older one atomically.

        Raises:
            StorageError: the file cannot be written.
        """
        target = Path(path)
        text = msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"
        try:
            with replacing(target) as temporary:
                temporary.write_bytes(text)
        except OSError as error:
            raise cannot_write_profile(target, error) from error
        return target

    def entry_for(
        self, job: str, data_type: str | None = None, files: int | None = None
    ) -> Entry | None:
        """The entry that serves a load, or None if the job was not tuned.

        Args:
            job: `frame`, `batches` or `stream`.
            data_type: the data type; an untuned one gets the entry of the one with the most bytes.
            files: number of files; None means the largest number that was measured.
        """
        check_job(job)
        entries = [entry for entry in self.entries if entry.job == job]
        if not entries:
            return None
        types = {entry.data_type for entry in entries}
        if data_type not in types:
            sizes = {dataset.data_type: dataset.bytes for dataset in self.datasets}
            data_type = max(types, key=lambda name: (sizes.get(name, 0), str(name)))
        bands = sorted(
            (entry for entry in entries if entry.data_type == data_type),
            key=lambda entry: entry.files,
        )
        if files is not None:
            for entry in bands:
                if entry.max_files is None or files <= entry.max_files:
                    return entry
        return bands[-1]

    def settings_for(
        self, job: str, data_type: str | None = None, files: int | None = None
    ) -> LoaderSettings:
        """The settings that serve a load; `LoaderSettings()` if the job was not tuned."""
        entry = self.entry_for(job, data_type, files)
        return entry.settings if entry is not None else LoaderSettings()

    def merged(self, newer: Profile) -> Profile:
        """Both profiles' entries; for a job and data type in both, only those of `newer`."""
        replaced = {(entry.job, entry.data_type) for entry in newer.entries}
        described = {dataset.data_type for dataset in newer.datasets}
        kept = [
            msgspec.structs.replace(
                entry,
                created=entry.created or self.created,
                command=entry.command or self.command,
            )
            for entry in self.entries
            if (entry.job, entry.data_type) not in replaced
        ]
        return msgspec.structs.replace(
            newer,
            entries=kept + newer.entries,
            datasets=[d for d in self.datasets if d.data_type not in described] + newer.datasets,
        )


class _Envelope(msgspec.Struct):
    """The fields that identify the format of a document."""

    format: str = ""
    version: int = 0


def _decode(text: bytes, path: object) -> Profile:
    """Decode a profile; the error differs for damage, other formats and newer versions."""
    try:
        head = msgspec.json.decode(text, type=_Envelope)
    except UNREADABLE as error:
        raise DocumentError(f"{path} is no feedrate profile: {error}") from error
    if head.format != FORMAT:
        raise DocumentError(
            f"{path} is no feedrate profile: its format is {shown(head.format or 'not given')}"
        )
    if not 1 <= head.version <= HIGHEST_VERSION:
        raise DocumentError(f"{path} is no feedrate profile: its version is {shown(head.version)}")
    if head.version > VERSION:
        raise DocumentError(
            f"{path} is a feedrate profile of version {head.version}, and this feedrate reads up "
            f"to {VERSION}; upgrade feedrate"
        )
    try:
        return msgspec.json.decode(text, type=Profile)
    except UNREADABLE as error:
        raise DocumentError(f"{path} is a damaged feedrate profile: {error}") from error


def cannot_write_profile(path: Path, error: OSError) -> StorageError:
    """The error for a profile that cannot be written."""
    return StorageError(
        f"cannot write profile {path}: {error.strerror or error}; name another file"
    )


def store_path(base_dir: str | os.PathLike[str], machine: Machine) -> Path:
    """The path of the profile of this machine and data folder in the user's store."""
    key = f"{machine.cpu_model}\n{machine.effective_cpus}\n{real_folder(base_dir)}"
    if machine.local_ranks > 1:
        key += f"\n{machine.local_ranks} ranks"
    name = hashlib.sha256(key.encode()).hexdigest()[:24]
    return profile_home() / f"{name}.json"


def find_profile(base_dir: str | os.PathLike[str] | None, machine: Machine) -> Path | None:
    """Find the default profile: from FEEDRATE_PROFILE, next to the data, or in the user's store.

    The file that FEEDRATE_PROFILE names is returned even if it is missing: loading it raises the
    error.

    Raises:
        DocumentError: a profile that was not named belongs to another user or is writable by
            everyone; or a folder cannot be searched.
    """
    if named := os.environ.get(PROFILE_VARIABLE):
        return Path(named)
    if base_dir is None:
        return None
    # A profile beside objects would take a request for each loader.
    beside = [] if is_url(os.fspath(base_dir)) else [Path(base_dir, BESIDE_DATA)]
    for path in (*beside, store_path(base_dir, machine)):
        try:
            if not path.is_file():
                continue
            reason = why_untrusted(path)
        except OSError as error:
            raise DocumentError(
                f"cannot look for a profile in {path.parent}: {error.strerror or error} "
                "(FEEDRATE_HOME names another folder)"
            ) from error
        if reason is not None:
            raise DocumentError(
                f"profile {path} is not used: {reason}; if it can be trusted, name it with "
                f"{PROFILE_VARIABLE}"
            )
        return path
    return None
