"""Which settings a loader works with, and why: keyword over settings over profile over default."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from .backends import AUTO_ORDER, Backend, get_backend
from .dataset import Dataset, describe
from .errors import DocumentError, FeedrateWarning, InputError
from .machine import Machine, fingerprint
from .profile import Job, Profile, find_profile
from .settings import LoaderSettings, with_changes

ProfileChoice = Profile | str | os.PathLike[str] | None


@dataclass(frozen=True)
class TrustedProfile:
    """A profile that is obeyed, or why none is.

    Attributes:
        profile: the profile, or None.
        told: sentences for `.explain()`.
    """

    profile: Profile | None
    told: tuple[str, ...]


@dataclass(frozen=True)
class Resolution:
    """The settings for one job and how they came about."""

    backend: Backend
    settings: LoaderSettings
    told: tuple[str, ...]


def trusted_profile(
    choice: ProfileChoice,
    base_dir: str | os.PathLike[str] | None,
    datasets: Callable[[Profile], Sequence[Dataset]] = lambda _: (),
    retune: str = "feedrate tune DATA",
) -> TrustedProfile:
    """Find the profile and decide whether it holds here; warns where it does not.

    Args:
        choice: a profile, its path, `auto` to look in the usual places, or None (or `none`).
        base_dir: the data's folder, for the usual places.
        datasets: describes what is to be loaded; called only if there is a profile to check.
        retune: the command that would make a profile that holds.

    Raises:
        DocumentError: a named profile is missing, damaged, newer than this version or not ours.
    """
    if choice is None or choice == "none":
        return TrustedProfile(None, ("No profile: profile=None.",))
    machine = fingerprint()
    try:
        profile, where = _load(choice, base_dir, machine)
    except DocumentError as error:
        if choice != "auto" or os.environ.get("FEEDRATE_PROFILE"):
            raise
        warnings.warn(f"{error}; safe defaults are used", FeedrateWarning, stacklevel=4)
        return TrustedProfile(None, (f"Profile not obeyed: {error}.",))
    if profile is None:
        return TrustedProfile(None, (f"No profile was found; make one with: {retune}",))
    against = profile.mismatches(machine, datasets(profile))
    if against:
        why = f"profile {where} does not hold here: {'; '.join(against)}"
        warnings.warn(
            f"{why}; safe defaults are used. Tune again with: {retune}",
            FeedrateWarning,
            stacklevel=4,
        )
        return TrustedProfile(None, (f"Profile not obeyed: {why}.", f"Tune again with: {retune}"))
    return TrustedProfile(profile, (f"Profile: {where}, of {profile.created}.",))


def _load(
    choice: Profile | str | os.PathLike[str],
    base_dir: str | os.PathLike[str] | None,
    machine: Machine,
) -> tuple[Profile | None, str]:
    if isinstance(choice, Profile):
        return choice, "given"
    path = find_profile(base_dir, machine) if choice == "auto" else choice
    return (None, "") if path is None else (Profile.load(path), os.fspath(path))


@dataclass(frozen=True)
class Wishes:
    """What the user asked for when making a loader; None where nothing was said."""

    backend: str | None = None
    settings: LoaderSettings | None = None
    num_workers: int | None = None
    prefetch: int | None = None
    cache: str | None = None

    def changes(self) -> dict[str, object]:
        """The fields given as keywords."""
        fields = {"num_workers": self.num_workers, "prefetch": self.prefetch, "cache": self.cache}
        return {name: value for name, value in fields.items() if value is not None}


def resolve(
    wishes: Wishes,
    trusted: TrustedProfile,
    job: Job,
    data_type: str | None = None,
    files: int | None = None,
) -> Resolution:
    """Settle the settings for a job, field by field, and say where they come from."""
    told = list(trusted.told)
    entry = None
    if wishes.settings is None and trusted.profile is not None:
        entry = trusted.profile.entry_for(job, data_type, files)
        if entry is None:
            told.append(f"The profile has nothing on the {job} job; defaults are used.")
    if wishes.settings is not None:
        base, source = wishes.settings, "the settings given"
    elif entry is not None:
        base, source = entry.settings, "the profile"
        told.append(
            f"Measured on {entry.files} files of {entry.data_type or 'the data'}: "
            f"{entry.evidence.rows_per_s:,.0f} rows/s; evidence {entry.evidence.strength} "
            f"({entry.evidence.why})."
        )
    else:
        base, source = LoaderSettings(), "the defaults"
    name = wishes.backend if wishes.backend not in (None, "auto") else base.backend
    backend = get_backend(name or "auto")
    if name == "auto":
        told.append(f"Backend {backend.name}: the first installed of {', '.join(AUTO_ORDER)}.")
    elif entry is not None and name != entry.settings.backend:
        told.append(
            f"Backend {backend.name} was asked for; the profile's settings were measured with "
            f"{entry.settings.backend}."
        )
    wanted = with_changes(base, **wishes.changes())
    settings = backend.obeyed(job, wanted)
    dropped = [
        field
        for field in ("num_workers", "prefetch", "cache")
        if getattr(settings, field) != getattr(wanted, field)
    ]
    told.append(
        f"{job.capitalize()} job: {_shown(job, backend, settings)}, from {source}"
        + _overridden(wishes)
        + "."
    )
    if dropped:
        told.append(f"Not used by {backend.name} in this job: {', '.join(dropped)}.")
    return Resolution(backend, settings, tuple(told))


def _overridden(wishes: Wishes) -> str:
    given = [*wishes.changes()] + (["loader_type"] if wishes.backend not in (None, "auto") else [])
    return f", with {', '.join(given)} as given" if given else ""


def _shown(job: Job, backend: Backend, settings: LoaderSettings) -> str:
    uses = backend.uses.get(job, frozenset())
    fields = [
        f"{name}={value}"
        for name, value in msgspec.structs.asdict(settings).items()
        if name in uses
    ]
    return ", ".join([f"backend={backend.name}", *fields])


def as_cache(enable: bool | str | None) -> str | None:
    """What `enable_cache` means: True is `memory`, False is `none`; a tier's name is itself."""
    if enable is None or isinstance(enable, str):
        return enable
    return "memory" if enable else "none"


def as_prefetch(enable: bool | int | None) -> int | None:
    """What `enable_prefetch` means: True is 2, False is 0; a number is itself."""
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
    """The settings that a profile gives a backend's own loader; the defaults without one.

    Args:
        backend: the loader's backend; the settings may have been measured with another.
        choice: as for `trusted_profile`.
        files: what will be loaded, for the usual places and the check of the dataset; None
            checks the machine alone.
        job: `frame`, `batches` or `stream`.

    Raises:
        DocumentError: a named profile cannot be used.
        ParquetFileError: a file cannot be read.
    """
    base_dir, described = None, None
    if files:
        described = describe(files)
        folder = Path(described.folder)
        base_dir = folder.parent
        described = msgspec.structs.replace(described, data_type=folder.name)
    trusted = trusted_profile(
        choice, base_dir, lambda _: [described] if described is not None else []
    )
    count = len(files) if files else None
    data_type = described.data_type if described is not None else None
    return resolve(Wishes(backend=backend), trusted, job, data_type, count).settings
