"""The flags and arguments of the commands that measure, and their conversion to a spec."""

from __future__ import annotations

import glob
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ...loaders.base.atomic import replacing
from ...loaders.base.errors import FeedrateError, InputError, StorageError
from ...loaders.base.machine import is_installed
from ..plan.spec import Spec
from ..record.journal import new_results_file
from ..show.text import say
from ..system.stopping import exit_status
from ..system.units import parse_counts, parse_list
from .console import option

Command = TypeVar("Command", bound=Callable[..., None])

USAGE_ERROR = 2
INTERRUPTED = 130

ResultsArgument = Annotated[
    Path, typer.Argument(metavar="RESULTS", help="A journal that tune or sweep wrote.")
]
DataType = Annotated[str | None, option("Which data type; default: the most bytes.", "NAME")]
Target = Annotated[str | None, option("The target column of training jobs.", "NAME")]
SpecFile = Annotated[Path | None, option("A TOML file with these settings.", "FILE")]
Objective = Annotated[
    str | None,
    option("Choose by: throughput, latency, memory or epoch-time; default: throughput.", "WHAT"),
]
Tie = Annotated[
    float | None,
    option("Ratio to the best up to which settings count as equal; default: 1.03.", "RATIO"),
]
MaxMemory = Annotated[str | None, option("Reject settings whose peak memory exceeds SIZE.", "SIZE")]
EmulateStorage = Annotated[
    str | None,
    option(
        "Read local files as slowly as a store: latency=30ms,bandwidth=200MB/s (also jitter, "
        "connection, requests, throttle), or a file of doctor --write-storage.",
        "STORE",
    ),
]
MEASURING: dict[str, Any] = {
    "job": Annotated[str | None, option("Jobs: frame, batches, stream.", "LIST")],
    "data_type": DataType,
    "columns": Annotated[str | None, option("Columns to load, features to train on.", "LIST")],
    "target": Target,
    "backends": Annotated[str | None, option("Backends; default: all installed.", "LIST")],
    "loader": Annotated[
        str | None, option("A custom loader to measure as well: package.module:function.", "NAME")
    ],
    "files": Annotated[
        str | None, option("File counts; default: a twelfth, a quarter, all.", "LIST")
    ],
    "workers": Annotated[
        str | None, option("Worker counts; default: 0 to twice the CPUs.", "LIST")
    ],
    "prefetch": Annotated[
        str | None, option("Prefetch depths; default: 2 for frames, else 0,2.", "LIST")
    ],
    "requests": Annotated[
        str | None,
        option("Requests in flight to an object store; default: 16,64,128.", "LIST"),
    ],
    "cache": Annotated[
        str | None, option("Caches: none, memory, disk; default: none,memory.", "LIST")
    ],
    "batch_size": Annotated[
        str | None, option("Batch sizes of training jobs; default: 1024.", "LIST")
    ],
    "spec": SpecFile,
    "repeats": Annotated[int | None, option("Rounds of screening; default: 3.", "N")],
    "passes": Annotated[int | None, option("Passes over the data per launch; default: 3.", "N")],
    "page_cache": Annotated[
        str | None, option("Before each pass: cold, warm or as-is; default: as-is.", "STATE")
    ],
    "consumer": Annotated[
        str | None, option("A step for each batch: its time (5ms), or torch-mlp.", "STEP")
    ],
    "consumer_ms": Annotated[float | None, option("The same, in milliseconds.", "MS")],
    "timeout": Annotated[str | None, option("Limit of one pass; default: 60s.", "TIME")],
    "max_workers": Annotated[int | None, option("Leave out higher worker counts.", "N")],
    "local_ranks": Annotated[
        int | None, option("Loaders that run at once, as ranks of a job; default: 1.", "N")
    ],
    "emulate_storage": EmulateStorage,
    "ray": Annotated[
        str | None,
        option(
            "Run the trials on a Ray cluster: HOST:PORT, ray://HOST:10001, auto, or local.",
            "ADDRESS",
        ),
    ],
    "ray_labels": Annotated[
        str | None, option("Only nodes with these labels: disk=nvme,zone=!b.", "LIST")
    ],
}
"""The flags of commands that measure, by the name of their argument."""
CHOOSING: dict[str, Any] = {
    "budget": Annotated[
        str | None, option("Time for everything; default: 10m; none: no limit.", "TIME")
    ],
    "objective": Objective,
    "tie": Tie,
    "max_memory": MaxMemory,
}
"""The flags of commands that measure and choose."""
ResultsFile = Annotated[Path | None, option("The journal to write.", "FILE")]
Resume = Annotated[bool, typer.Option("--resume", help="Add what is missing to --results.")]
ProfileFile = Annotated[
    Path | None, option("The profile to write; default: the user's store.", "FILE")
]
NoProfile = Annotated[bool, typer.Option("--no-profile", help="Write no profile.")]


def with_flags(flags: Mapping[str, Any]) -> Callable[[Command], Command]:
    """Give a command some flags after its argument; it takes their values as keywords.

    typer reads a command's flags from its signature.
    """

    def decorate(command: Command) -> Command:
        written = inspect.signature(command, eval_str=True)
        first, *rest = [one for one in written.parameters.values() if one.kind != one.VAR_KEYWORD]
        added = [
            first.replace(name=name, kind=first.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in flags.items()
        ]
        whole = written.replace(parameters=[first, *added, *rest])
        command.__signature__ = whole  # type: ignore[attr-defined]  # what inspect looks for
        command.__annotations__ = {one.name: one.annotation for one in whole.parameters.values()}
        return command

    return decorate


def spec_fields(arguments: dict[str, Any]) -> dict[str, Any]:
    """The given flags as fields of `Spec`; arguments that are no fields are left out."""
    lists = ("jobs", "columns", "backends", "cache")
    counts = ("files", "workers", "prefetch", "requests", "batch_size")
    given: dict[str, Any] = {}
    if (milliseconds := arguments.get("consumer_ms")) is not None:
        if arguments["consumer"] is not None:
            raise InputError("--consumer and --consumer-ms are two names of one thing; give one")
        given["consumer"] = f"{milliseconds:f}ms"
    for flag, value in arguments.items():
        field = "jobs" if flag == "job" else flag
        if value is None or field not in Spec.__struct_fields__:
            continue
        if field in counts:
            given[field] = parse_counts(value, f"--{flag.replace('_', '-')}")
        else:
            given[field] = parse_list(value) if field in lists else value
    return given


def journal_file(results: Path | None, *, resume: bool) -> Path | None:
    """The journal to write, by default a new file, so that its name is known before measuring."""
    return new_results_file() if results is None and not resume else results


@contextmanager
def resumable(path: Path | None, *, named: bool, resume: bool) -> Iterator[None]:
    """Say how to resume if measuring is stopped by Ctrl-C or SIGTERM.

    Args:
        path: the journal.
        named: whether the command has `--results`.
        resume: whether it has `--resume`.
    """
    try:
        yield
    except FeedrateError:
        remove_empty(path)
        raise
    except KeyboardInterrupt as stop:
        remove_empty(path)
        kept = [] if path is None else [path] if path.exists() else journals_of_machines(path)
        if not kept:
            raise  # handled as in any other command
        flags = [*([] if named else [f"--results {path}"]), *([] if resume else ["--resume"])]
        more = f" and {' '.join(flags)}" if flags else ""
        say(
            f"feedrate: interrupted; what was measured is in {', '.join(map(str, kept))}. Go on "
            f"with: the same command{more}"
        )
        raise typer.Exit(exit_status(stop)) from None


def journals_of_machines(path: Path) -> list[Path]:
    """The journals that a cluster of several kinds of machines wrote instead of this one."""
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}-*cpu-*{path.suffix}"))


def check_ray(flags: Mapping[str, Any]) -> str | None:
    """The address of the Ray cluster, if there is one.

    Raises:
        InputError: Ray is not installed, or there are labels but no cluster.
    """
    address: str | None = flags["ray"]
    if address is None and flags["ray_labels"] is not None:
        raise InputError("--ray-labels chooses nodes of a cluster; name it with --ray ADDRESS")
    if address is not None and not is_installed("ray"):
        raise InputError('--ray needs ray; install it with: pip install "feedrate[ray]"')
    return address


def remove_empty(path: Path | None) -> None:
    """Remove a journal if it is empty."""
    if path is not None and path.exists() and not path.stat().st_size:
        path.unlink()


def check_place(path: Path) -> None:
    """Raise `StorageError` if no file can be written there, before anything is measured."""
    if not path.parent.is_dir():
        raise StorageError(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise StorageError(f"cannot write {path}: it is a folder; name a file")


def check_targets(markdown: Path | None, junit: Path | None) -> None:
    """Raise before measuring if a report could not be written afterwards."""
    for path in filter(None, (markdown, junit)):
        check_place(path)
    if junit is not None and not is_installed("junitparser"):
        raise InputError(
            '--junit needs junitparser; install it with: pip install "feedrate[reports]"'
        )


def write(path: Path, text: str) -> None:
    """Write a report to a file.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        target, content = Path(os.path.realpath(path)), text.encode("utf-8", errors="replace")
        if target.exists() and not target.is_file():  # write into a pipe or a device
            target.write_bytes(content)
        else:
            with replacing(target) as temporary:  # the old file stays until the new one is complete
                temporary.write_bytes(content)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; name a file in a folder you can "
            "write to"
        ) from error
    say(f"wrote {path}")
