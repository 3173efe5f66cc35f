"""Save the profile of a tune, and report the entries that it replaces."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ...loaders.base.atomic import locked
from ...loaders.base.errors import DocumentError, FeedrateError, InputError
from ...loaders.base.homes import profile_home
from ...loaders.base.warn import warn
from ...loaders.choosing.profile import Profile, cannot_write_profile, store_path
from ...loaders.choosing.trust import mismatches
from ..record.speedup import settings_text
from ..system.units import counted
from .opening import Run


def check_profile_file(path: Path, *, emulated: bool) -> None:
    """Check before measuring that a profile can be written to a file.

    A file that is damaged or not a feedrate profile is not overwritten, nor is a profile of real
    storage by one of emulated storage.
    """
    if path.is_dir():
        raise InputError(f"--profile {path} is a folder; name a file")
    if path.exists():
        try:
            earlier = Profile.load(path)
        except DocumentError as error:
            raise DocumentError(f"{error}. It is not overwritten: name another file") from error
        if emulated and earlier.emulated is None:
            raise InputError(
                f"{path} is a profile of real storage, which one of emulated storage may not "
                "replace; name another file"
            )
    try:
        _try_to_write_in(path.parent)
    except OSError as error:
        raise cannot_write_profile(path, error) from error


def check_store() -> None:
    """Warn before measuring if the user's store cannot be written."""
    store = profile_home()
    try:
        _try_to_write_in(store)
    except OSError as error:
        warn(
            f"the profile cannot be stored in {store}: {error.strerror or error}; stop and name a "
            "file with --profile FILE, or another folder with FEEDRATE_HOME"
        )


def _try_to_write_in(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder):
        pass


def store(new: Profile, run: Run, notes: list[str]) -> Path | None:
    """Save to the user's store; if that fails, add a note and return None."""
    try:
        return save(new, store_path(run.source.base_dir, new.machine), notes)
    except FeedrateError as error:
        notes.append(
            f"the profile was not stored: {error}. Store it from the results: feedrate "
            f"recommend {run.path} --profile FILE"
        )
        return None


def save(new: Profile, path: Path, notes: list[str]) -> Path:
    """Merge into the existing profile, and note which entries are replaced.

    If two tunes end at the same time, the entries of both are saved.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write_profile(path, error) from error
    with locked(path.parent):
        return _with_earlier(new, path, notes).save(path)


def _with_earlier(new: Profile, path: Path, notes: list[str]) -> Profile:
    try:
        earlier = Profile.load(path) if path.exists() else None
    except DocumentError as error:
        notes.append(f"the earlier profile is replaced: {error}")
        return new
    if earlier is None:
        return new
    if not _mergeable(earlier, new):
        notes.append(f"{path} held a profile of other data or another machine; it is replaced")
        return new
    for entry in (one for one in new.entries if one.max_files is None):
        key = entry.job, entry.data_type, entry.max_files
        old = next((e for e in earlier.entries if (e.job, e.data_type, e.max_files) == key), None)
        if old is not None and (old.settings != entry.settings or old.files > entry.files):
            before = f"{old.settings.backend} ({settings_text(old.job, old.settings)})"
            notes.append(
                f"the profile's {entry.job} job was {before}, measured on "
                f"{counted(old.files, 'file')}; it is replaced by the choice for "
                f"{counted(entry.files, 'file')}"
            )
    return earlier.merged(new)


def _mergeable(earlier: Profile, new: Profile) -> bool:
    """Whether entries of an earlier profile are still valid next to the new ones."""
    old_folders = {_storage_of(dataset.folder) for dataset in earlier.datasets}
    new_folders = {_storage_of(dataset.folder) for dataset in new.datasets}
    return old_folders == new_folders and not mismatches(earlier, new.machine, ())


def _storage_of(folder: str) -> str:
    """The folder of the storage that a data type's folder is in; a bucket is its own."""
    parent = folder.rpartition("/")[0]
    return folder if parent.endswith(":/") else parent
