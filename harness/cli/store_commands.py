"""The commands for files that feedrate keeps for the user: profiles and cached files."""

from __future__ import annotations

import os
import shlex
from glob import has_magic
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from ...loaders.base.errors import FeedrateError, StorageError
from ...loaders.base.homes import profile_home
from ...loaders.base.machine import fingerprint
from ...loaders.caching.disk import DiskCache
from ...loaders.choosing.profile import Profile, find_profile, store_path
from ...loaders.choosing.trust import check
from ...loaders.remote.table_urls import is_table, table_url
from ...loaders.remote.urls import RemotePath, checked_url, is_url, local_path
from ..plan.source import find_files, open_source
from ..show.text import say
from ..system.formats import format_bytes
from ..system.units import counted
from .console import AsJson, DataArgument, echo, option, out_console

DAMAGED = 1

profile_app = typer.Typer(
    help="Show, check and remove profiles.", no_args_is_help=True, rich_markup_mode=None
)
cache_app = typer.Typer(
    help="Show, check and empty the disk cache.", no_args_is_help=True, rich_markup_mode=None
)

ProfileFile = Annotated[Path | None, option("The profile; default: what a loader finds.", "FILE")]
Folder = Annotated[Path | None, option("The cache; default: the user's.", "DIR")]


@profile_app.command("path")
def profile_path(data: DataArgument) -> None:
    """Print where the profile of a data folder is, or would be stored."""
    data = _named(data)
    folder, machine = _storage_folder(data), fingerprint()
    echo(str(find_profile(folder, machine) or store_path(folder, machine)))


@profile_app.command("list")
def profile_list(json: AsJson = False) -> None:
    """List the profiles in the user's store."""
    rows: list[dict[str, Any]] = []
    for path in _stored():
        try:
            profile = Profile.load(path)
            about = {
                "jobs": sorted({entry.job for entry in profile.entries}),
                "folders": sorted({dataset.folder for dataset in profile.datasets}),
                "created": profile.created,
                "ranks": profile.machine.local_ranks,
            }
        except FeedrateError as error:
            about = {"damaged": f"{error}; remove it with: feedrate profile remove {path}"}
        rows.append({"path": str(path), **about})
    if json:
        echo(msgspec.json.encode(rows).decode(), exact=True)
    elif not rows:
        say(f"no profile in {profile_home()}; make one with: feedrate tune DATA")
    for row in rows if not json else ():
        ranks = row.pop("ranks", 1)
        parts = [", ".join(value) if isinstance(value, list) else value for value in row.values()]
        echo("  ".join([*parts, *([] if ranks == 1 else [f"{ranks} ranks"])]))


def _stored() -> list[Path]:
    """The files of the user's store; none where there is no store yet."""
    store = profile_home()
    try:
        with os.scandir(store) as entries:
            return sorted(Path(entry) for entry in entries if entry.name.endswith(".json"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(
            f"cannot list {store}: {error.strerror or error}; name another folder with "
            "FEEDRATE_HOME"
        ) from error


@profile_app.command("show")
def profile_show(
    where: Annotated[str, typer.Argument(metavar="FILE|DATA")], json: AsJson = False
) -> None:
    """Show a profile, given its file or the data folder it was made for."""
    where = _named(where)
    path = Path(where)
    if not path.is_file():
        found = find_profile(_storage_folder(where), fingerprint())
        if found is None:
            raise StorageError(f"no profile for {where}; make one with: feedrate tune {where}")
        path = found
    profile = Profile.load(path)
    if json:
        echo(msgspec.json.format(msgspec.json.encode(profile)).decode(), exact=True)
        return
    from ..show.terminal import profile_view

    out_console().print(profile_view(profile, path))


@profile_app.command("check")
def profile_check(
    where: Annotated[str, typer.Argument(metavar="DATA", help="Data that would be loaded.")],
    profile: ProfileFile = None,
    json: AsJson = False,
) -> None:
    """Compare a profile with this machine and data, field by field; exit 1 if it does not match."""
    from ..show.terminal import checked_view

    where = _named(where)
    source = open_source(where)
    path = profile or find_profile(source.base_dir, fingerprint())
    if path is None:
        raise StorageError(f"no profile for {where}; make one with: feedrate tune {where}")
    known = Profile.load(path)
    if not known.entries:
        raise StorageError(f"{path} has settings for no job; make one with: feedrate tune {where}")
    types = {dataset.data_type for dataset in known.datasets}
    here = [name for name in (source.data_type, *source.others) if name in types]
    datasets = [open_source(where, name).dataset for name in here] or [source.dataset]
    checked = check(known, fingerprint(), datasets)
    holds = all(one.holds for one in checked)
    if json:
        rows = {"profile": str(path), "holds": holds, "checked": checked}
        echo(msgspec.json.encode(rows).decode(), exact=True)
    else:
        out_console().print(checked_view(checked, path, where))
    if not holds:
        raise typer.Exit(1)


@profile_app.command("remove")
def profile_remove(
    where: Annotated[str, typer.Argument(metavar="FILE|DATA", help="A profile, or its data.")],
) -> None:
    """Remove a profile from the user's store, or a profile file."""
    where = _named(where)
    path = Path(where)
    of_data = not path.is_file()
    if of_data:
        path = store_path(_storage_folder(where), fingerprint())
        if not path.exists():
            raise StorageError(f"the store has no profile for {where}; see: feedrate profile list")
    elif path.resolve().parent != profile_home().resolve():  # all files there are ours
        Profile.load(path)  # raises for a file that is no profile, which is then not removed
    try:
        path.unlink()
    except OSError as error:
        raise StorageError(f"cannot remove {path}: {error.strerror or error}") from error
    say(f"removed {path}")
    if of_data and (left := find_profile(_storage_folder(where), fingerprint())):
        say(f"loaders still find {left}")


def _named(where: str) -> str:
    """What the user named, as a path or a URL.

    Raises:
        StorageError: neither a file, a folder, a glob nor a URL.
        InputError: a URL with credentials in it, which messages would show.
    """
    if is_table(where):
        return str(table_url(where))
    if is_url(where):
        return checked_url(where)
    where = local_path(where)
    if not os.path.lexists(where) and not has_magic(where):
        raise StorageError(
            f"there is no profile and no data folder {where}; profiles are listed by: feedrate "
            "profile list"
        )
    return where


def _storage_folder(data: str) -> Path | RemotePath:
    return find_files(data).base_dir


@cache_app.command("info")
def cache_info(folder: Folder = None, json: AsJson = False) -> None:
    """Print where the cache is and what it holds."""
    cache = _cache(folder)
    held = cache.info()
    if json:
        about = {"folder": str(cache.folder), **held, "max_bytes": cache.max_bytes}
        echo(msgspec.json.encode(about).decode(), exact=True)
        return
    echo(
        f"{cache.folder}: {counted(held['files'], 'file')} in "
        f"{counted(held['segments'], 'segment')}, "
        f"{format_bytes(held['bytes'])} of at most {format_bytes(cache.max_bytes)}"
    )
    if held["leftover_bytes"]:
        echo(
            f"killed writers left {format_bytes(held['leftover_bytes'])}, removed when the "
            "cache is next written to, or with: feedrate cache clear"
        )


@cache_app.command("clear")
def cache_clear(folder: Folder = None) -> None:
    """Remove all cached files; the next load decodes them again."""
    cache = _cache(folder)
    held = cache.info()["bytes"]
    try:
        cache.clear()
    except StorageError as error:
        cause = error.__cause__
        if not isinstance(cause, IsADirectoryError):
            raise
        raise StorageError(
            f"{error}: {cause.filename}, which feedrate did not make; remove it with: "
            f"rm -r {shlex.quote(os.fspath(cause.filename))}"
        ) from error
    say(f"removed {format_bytes(held)} from {cache.folder}")


@cache_app.command("verify")
def cache_verify(folder: Folder = None) -> None:
    """Compare all checksums, and drop damaged segments; exit 1 if there were any."""
    cache = _cache(folder)
    wrong = cache.verify()
    for name, why in wrong.items():
        echo(f"{name}: {why}; its files are decoded again when they are loaded")
    if wrong:
        raise typer.Exit(DAMAGED)
    segments = cache.info()["segments"]
    intact = "as it was written" if segments == 1 else "all as they were written"
    echo(f"{cache.folder}: {counted(segments, 'segment')}, {intact}")


def _cache(folder: Path | None) -> DiskCache:
    cache = DiskCache(folder)
    if cache.folder.exists() and not cache.folder.is_dir():
        raise StorageError(
            f"the cache {cache.folder} is a file where a folder is needed, so nothing is cached; "
            "move it away"
        )
    if folder is not None and not folder.is_dir():
        raise StorageError(f"there is no cache folder {folder}; see: feedrate cache info")
    return cache
