"""Choose a loader's settings and explain them: keyword over settings over profile over default."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..base.errors import DocumentError, InputError
from ..base.machine import Machine, fingerprint
from ..base.settings import REQUESTS, LoaderSettings, with_changes
from ..base.warn import warn
from ..parquet.dataset import Dataset, describe
from ..remote.urls import RemotePath, common_folder, is_url
from .backend import Backend
from .profile import PROFILE_VARIABLE, Entry, Job, Profile, check_job, find_profile
from .registry import AUTO_ORDER, find_backend, get_backend
from .trust import mismatches

SEARCHED_FOLDERS = 6  # a file's folder and those above: TYPE/2025/01/01/GAME.parquet needs five

ProfileChoice = Profile | str | os.PathLike[str] | None


@dataclass(frozen=True)
class TrustedProfile:
    """A profile that is used, or the reason why none is.

    Attributes:
        profile: the profile, or None.
        notes: sentences for `explain()`.
        retune: the command that makes a profile of this data.
    """

    profile: Profile | None
    notes: tuple[str, ...]
    retune: str = "feedrate tune DATA"

    def untuned(self, job: Job) -> str | None:
        """A sentence if the profile has no entry for a job, with the command that adds it."""
        if self.profile is None or self.profile.entry_for(job) is not None:
            return None
        target = "" if job == "frame" else " --target COLUMN"
        return (
            f"The profile has nothing on the {job} job; defaults are used. To tune it: "
            f"{self.retune} --job {job}{target}"
        )


@dataclass(frozen=True)
class Described:
    """The data that a profile is compared with."""

    datasets: Sequence[Dataset] = ()
    problems: Sequence[str] = ()
    """Why some of it could not be described."""


@dataclass(frozen=True)
class Resolution:
    """The settings for one job, and where they come from."""

    backend: Backend
    settings: LoaderSettings
    notes: tuple[str, ...]
    entry: Entry | None = None
    """The profile's entry, if it is used in full."""


def trusted_profile(
    choice: ProfileChoice,
    base_dir: str | os.PathLike[str] | None,
    describe_data: Callable[[Profile], Described] = lambda _: Described(),
    retune: str = "feedrate tune DATA",
) -> TrustedProfile:
    """Find the profile and check whether it is valid here; warn if it is not.

    Args:
        choice: a profile, its path, `auto` to look in the usual places, or None (or `none`).
        base_dir: the data's folder, for the usual places.
        describe_data: describes the data to be loaded; called only if there is a profile.
        retune: the command that makes a valid profile.

    Raises:
        DocumentError: a named profile is missing, damaged, newer than this version or no profile.
    """
    if choice is None or choice == "none":
        return TrustedProfile(None, ("No profile: profile=None.",))
    machine = fingerprint()
    try:
        profile, where = _load(choice, base_dir, machine)
    except DocumentError as error:
        if choice != "auto" or os.environ.get(PROFILE_VARIABLE):
            raise
        warn(f"{error}; safe defaults are used. Make another with: {retune}")
        return TrustedProfile(None, (f"Profile not used: {error}.", f"Make another with: {retune}"))
    if profile is None:
        return TrustedProfile(None, (f"No profile was found; make one with: {retune}",))
    data = describe_data(profile)
    reasons = mismatches(profile, machine, data.datasets)
    if reasons:
        problem = f"profile {where} does not hold here: {'; '.join(reasons)}"
        warn(f"{problem}; safe defaults are used. Tune again with: {retune}")
        return TrustedProfile(None, (f"Profile not used: {problem}.", f"Tune again with: {retune}"))
    unchecked = [f"Not checked with the profile: {problem}." for problem in data.problems]
    return TrustedProfile(profile, (f"Profile: {where}, of {profile.created}.", *unchecked), retune)


def _load(
    choice: Profile | str | os.PathLike[str],
    base_dir: str | os.PathLike[str] | None,
    machine: Machine,
) -> tuple[Profile | None, str]:
    if isinstance(choice, Profile):
        return choice, "given"
    path = find_profile(base_dir, machine) if choice == "auto" else choice
    if path is None:
        return None, ""
    try:
        return Profile.load(path), os.fspath(path)
    except DocumentError as error:
        if choice == "auto" and os.environ.get(PROFILE_VARIABLE):
            raise DocumentError(f"{error} ({PROFILE_VARIABLE} names it)") from error
        raise


@dataclass(frozen=True)
class Overrides:
    """The settings that the user chose when making a loader; None for those not chosen."""

    backend: str | None = None
    settings: LoaderSettings | None = None
    num_workers: int | None = None
    prefetch: int | None = None
    cache: str | None = None
    decoder: str | None = None

    def changes(self) -> dict[str, object]:
        """The fields given as keywords."""
        names = ("num_workers", "prefetch", "cache", "decoder")
        fields = {name: getattr(self, name) for name in names}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class _Base:
    """The settings that keywords override."""

    settings: LoaderSettings
    source: str
    notes: tuple[str, ...] = ()
    entry: Entry | None = None


def resolve(
    overrides: Overrides,
    trusted: TrustedProfile,
    job: Job,
    data_type: str | None = None,
    files: int | None = None,
) -> Resolution:
    """Choose the settings for a job, field by field, and explain where they come from."""
    check_job(job)
    base = _base(overrides, trusted, job, data_type, files)
    notes = [*trusted.notes, *base.notes]
    name = overrides.backend if overrides.backend not in (None, "auto") else base.settings.backend
    backend = get_backend(name or "auto")
    if name == "auto":
        notes.append(f"Backend {backend.name}: the first installed of {', '.join(AUTO_ORDER)}.")
        if job == "frame" and backend.module is not None:
            backend = backend.reading_by_threads()
            notes.append(f"Threads of this process read frames; {backend.module} is not imported.")
    elif base.settings.backend not in ("auto", name):
        notes.append(
            f"Backend {backend.name} was requested; {base.source} named "
            f"{base.settings.backend}, so any measured speed is that of {base.settings.backend}."
        )
    requested = with_changes(base.settings, **overrides.changes())
    settings = backend.normalized_for(job, requested)
    notes.append(
        f"{job.capitalize()} job: {_format(job, backend, settings)}, from {base.source}"
        f"{_overridden(overrides)}."
    )
    dropped = [
        field
        for field in ("num_workers", "prefetch", "cache")
        if getattr(settings, field) != getattr(requested, field)
    ]
    if dropped:
        notes.append(f"Not used by {backend.name} in this job: {', '.join(dropped)}.")
    entry = base.entry
    if entry is not None and (
        backend.name != entry.settings.backend
        or settings != backend.normalized_for(job, entry.settings)
    ):
        entry = None  # it was measured with other settings
    return Resolution(backend, settings, tuple(notes), entry)


def _base(
    overrides: Overrides,
    trusted: TrustedProfile,
    job: Job,
    data_type: str | None,
    files: int | None,
) -> _Base:
    """The settings given, else the profile's, else the defaults."""
    if overrides.settings is not None:
        return _Base(overrides.settings, "the settings given")
    profile = trusted.profile
    entry = None if profile is None else profile.entry_for(job, data_type, files)
    if entry is None:
        return _Base(LoaderSettings(), "the defaults", tuple(filter(None, [trusted.untuned(job)])))
    when = "" if entry.created is None else f"{entry.created} "
    measured = (
        f"Measured {when}on {entry.files} files of {entry.data_type or 'the data'}: "
        f"{entry.evidence.rows_per_s:,.0f} rows/s over all passes. Evidence: "
        f"{entry.evidence.strength}; {entry.evidence.why}."
    )
    # Fields that the measured backend ignores have idle values, which say nothing about another
    # backend.
    uses = find_backend(entry.settings.backend).uses.get(job, frozenset())
    fields = {name: getattr(entry.settings, name) for name in (*uses, "backend")}
    return _Base(
        msgspec.structs.replace(LoaderSettings(), **fields), "the profile", (measured,), entry
    )


def _overridden(overrides: Overrides) -> str:
    names = list(overrides.changes())
    if overrides.backend not in (None, "auto"):
        names.append("loader_type")
    return f", with {', '.join(names)} as given" if names else ""


def _format(job: Job, backend: Backend, settings: LoaderSettings) -> str:
    uses = backend.uses.get(job, frozenset())
    fields = [
        f"{name}={value}"
        for name, value in msgspec.structs.asdict(settings).items()
        if name in uses and value is not None and (name != "requests" or value != REQUESTS)
    ]
    return ", ".join([f"backend={backend.name}", *fields])


def as_cache(enable: bool | str | None) -> str | None:
    """The tier that `enable_cache` means: True is `memory`, False is `none`, or a tier's name."""
    if enable is None or isinstance(enable, str):
        return enable
    return "memory" if enable else "none"


def as_prefetch(enable: bool | int | None) -> int | None:
    """The number that `enable_prefetch` means: True is 2, False is 0, or a number."""
    if enable is None:
        return None
    if isinstance(enable, bool):
        return 2 if enable else 0
    if isinstance(enable, int):
        return enable
    raise InputError(f"enable_prefetch is {enable!r}; give True, False or a number")


def profiled_settings(
    backend: str,
    choice: ProfileChoice,
    files: Sequence[str | os.PathLike[str]] | None,
    job: Job,
) -> LoaderSettings:
    """The settings of a profile for a backend's own loader; the defaults without a profile.

    Args:
        backend: the loader's backend; the settings may have been measured with another.
        choice: as for `trusted_profile`.
        files: files to load, to find the profile and compare the dataset; None compares only the
            machine.
        job: `frame`, `batches` or `stream`.

    Raises:
        DocumentError: a named profile cannot be used.
        ParquetFileError: a file cannot be read.
    """
    check_job(job)
    folders = _folders([os.fspath(path) for path in files])[:SEARCHED_FOLDERS] if files else []
    machine = fingerprint()
    base_dir = next((above for above in folders if _may_have_profile(above, machine)), None)

    def described(profile: Profile) -> Described:
        types = {dataset.data_type for dataset in profile.datasets}
        data_type = next((above.name for above in folders if above.name in types), None)
        data_type = data_type or (folders[0].name if folders else None)
        return Described([describe(files, data_type)] if files else [])

    trusted = trusted_profile(choice, base_dir, described)
    if trusted.profile is None and choice == "auto" and not files:
        warn(
            "defaults are used: from_profile got neither files= nor profile=, so it did not look "
            "for a profile beside the data or in the user's store. Pass files=, or profile=FILE"
        )
    data_type = None
    if trusted.profile is not None:
        types = {entry.data_type for entry in trusted.profile.entries}
        data_type = next((above.name for above in folders if above.name in types), None)
    count = len(files) if files else None
    return resolve(Overrides(backend=backend), trusted, job, data_type, count).settings


def _folders(files: Sequence[str]) -> list[Path] | list[RemotePath]:
    """The innermost folder that holds all files, and those above it."""
    if is_url(files[0]):
        folder = RemotePath(common_folder(files))
        parts = folder.split("/")[3:]  # after the scheme and the bucket
        above = [folder]
        for _ in parts:
            above.append(above[-1].parent)
        return above
    path = Path(os.path.commonpath([Path(name).absolute().parent for name in files]))
    return [path, *path.parents]


def _may_have_profile(folder: Path | RemotePath, machine: Machine) -> bool:
    """Whether a folder has a profile, even an untrusted one: loading it will warn."""
    try:
        return find_profile(folder, machine) is not None
    except DocumentError:
        return True
