"""Whether a profile is valid here: one rule for each property of its machine and data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..base.errors import InputError
from ..base.machine import FRAMEWORKS, Machine
from ..parquet.dataset import Dataset
from .profile import Profile
from .registry import find_backend

MORE_FILES = 2.0  # times as many files: a season more, but not another archive
A_MONTH = 31  # or this many more, if there were few
OTHER_SHAPE = 2.0  # times as many rows, or row groups, per file
MEMORY_SHARE = 0.9  # of the memory limit, for the measured peak


@dataclass(frozen=True)
class Rule:
    """The difference in one field that a profile may have and still be trusted."""

    field: str
    what: str
    holds: Callable[[Any, Any], bool]
    """Takes the measured value and the value here."""
    near_enough: str
    """The rule in words."""
    shown: Callable[[Any], str] | None = None
    """Formats the machine or dataset that has the field; None shows the field's value."""


@dataclass(frozen=True)
class Checked:
    """The result of a rule."""

    what: str
    then: str
    now: str
    near_enough: str
    holds: bool

    def __str__(self) -> str:
        return f"{self.what} was {self.then}, is {self.now}"


def _same(then: Any, now: Any) -> bool:
    return bool(then == now)


def _any(then: Any, now: Any) -> bool:  # noqa: ARG001 - as the other rules
    return True


def _same_if_known(then: Any, now: Any) -> bool:
    return None in (then, now) or _same(then, now)


def _columns(dataset: Dataset) -> str:
    """A schema as its number of columns and the start of its digest."""
    return f"{dataset.columns} columns ({dataset.schema[:6]})"


def _within(factor: float) -> Callable[[float, float], bool]:
    def holds(then: float, now: float) -> bool:
        return then <= factor * now and now <= factor * then

    return holds


def _not_many_more(then: int, now: int) -> bool:
    return now <= max(MORE_FILES * then, then + A_MONTH)


def major(version: str) -> str:
    """The part of a version that changes with breaking changes (semver.org).

    >>> major("26.0.1"), major("0.1.3")
    ('26', '0.1')
    """
    first, _, rest = version.partition(".")
    return f"0.{rest.partition('.')[0]}" if first == "0" else first


MACHINE = (
    Rule("cpu_model", "the CPU", _same, "the same"),
    Rule("effective_cpus", "the number of usable CPUs", _same, "the same"),
    Rule("local_ranks", "the number of ranks on this machine", _same, "the same"),
    Rule("system", "the system", _same, "the same"),
    Rule("gpu", "the GPU", _same, "the same, for training jobs"),
)
"""The memory limit and the versions have separate rules: `_memory` and `_versions`."""

DATA = (
    Rule("schema", "the schema", _same, "the same", _columns),
    Rule("codecs", "the codecs", _same, "the same"),
    Rule("files", "the number of files", _not_many_more, "fewer, a month's more, or twice as many"),
    Rule("rows_per_file", "rows in a file", _within(OTHER_SHAPE), "half to twice as many"),
    Rule(
        "row_groups_per_file", "row groups in a file", _within(OTHER_SHAPE), "half to twice as many"
    ),
    Rule("storage", "the kind of storage", _same_if_known, "the same: local, network or memory"),
)
SNAPSHOT = Rule("snapshot", "the snapshot", _any, "any: its files and columns count")
"""A table gets a new snapshot with each write, most of which change little."""


def check(profile: Profile, machine: Machine, datasets: Sequence[Dataset]) -> list[Checked]:
    """Apply every rule to a profile on this machine.

    Args:
        profile: the profile, with the machine and the datasets that were measured.
        machine: this machine.
        datasets: the data to be loaded, compared with the measured data of the same type. Empty
            if the data are unknown.
    """
    return [
        *_emulated(profile),
        *_machine(profile, machine),
        _memory(profile, machine),
        *_backends(profile),
        *_versions(profile, machine),
        *_data(profile, datasets),
    ]


def mismatches(profile: Profile, machine: Machine, datasets: Sequence[Dataset]) -> list[str]:
    """The reasons not to use a profile here; empty if it may be trusted."""
    return [str(checked) for checked in check(profile, machine, datasets) if not checked.holds]


def _applied(rule: Rule, then: Any, now: Any, of: str = "") -> Checked:
    """Apply a rule to the measured and the present machine or dataset."""
    measured, present = getattr(then, rule.field), getattr(now, rule.field)
    return Checked(
        f"{rule.what}{of}",
        _text(measured) if rule.shown is None else rule.shown(then),
        _text(present) if rule.shown is None else rule.shown(now),
        rule.near_enough,
        rule.holds(measured, present),
    )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _machine(profile: Profile, machine: Machine) -> Iterator[Checked]:
    trains = any(entry.job != "frame" for entry in profile.entries)
    for rule in MACHINE:
        if rule.field != "gpu" or trains:  # the frame job never uses a GPU
            yield _applied(rule, profile.machine, machine)


def _emulated(profile: Profile) -> Iterator[Checked]:
    """Check that the storage was real: an emulated one is for planning."""
    if profile.emulated is not None:
        yield Checked(
            "the storage",
            f"emulated ({profile.emulated})",
            "real; such a profile is only a plan",
            "measured on real storage",
            holds=False,
        )


def _memory(profile: Profile, machine: Machine) -> Checked:
    """Check the memory limit: a lower one is fine if the measured peak fits into it."""
    peaks = [entry.evidence.peak_pss_bytes for entry in profile.entries]
    then, now = profile.machine.memory_bytes, machine.memory_bytes
    fits = all(peak is not None and peak <= MEMORY_SHARE * now for peak in peaks)
    return Checked(
        "the memory limit",
        f"{then / 2**30:.1f} GiB",
        f"{now / 2**30:.1f} GiB",
        "enough for the peak that was measured",
        now >= then or fits,
    )


def _backends(profile: Profile) -> Iterator[Checked]:
    """Check that the backends of the entries are known; they need not be installed."""
    for name in sorted({entry.settings.backend for entry in profile.entries}):
        try:
            find_backend(name)
            status = "known"
        except InputError as error:
            status = f"unknown ({error})"
            if ":" in name:  # a document must not import anything
                status = f"not imported; pass loader_type={name!r} to use it"
        yield Checked(f"backend {name}", "known", status, "known", status == "known")


def _versions(profile: Profile, machine: Machine) -> Iterator[Checked]:
    """Check the versions that matter to the entries: not those of other backends."""
    backends = {entry.settings.backend for entry in profile.entries}
    others = {
        package
        for backend, packages in FRAMEWORKS.items()
        if backend not in backends
        for package in packages
    }
    then_and_now = {
        name: (then, machine.versions.get(name, "missing"))
        for name, then in profile.machine.versions.items()
        if name not in others
    }
    then_and_now["python"] = (profile.machine.python, machine.python)
    for name, (then, now) in then_and_now.items():
        yield Checked(name, then, now, "same major version", major(then) == major(now))


def _data(profile: Profile, datasets: Sequence[Dataset]) -> Iterator[Checked]:
    measured = {dataset.data_type: dataset for dataset in profile.datasets}
    compared = [dataset for dataset in datasets if dataset.data_type in measured]
    if datasets and not compared:
        yield Checked(
            "the data type",
            _names(profile.datasets),
            _names(datasets),
            "one that was measured",
            holds=False,
        )
    for dataset in compared:
        of = f" of {dataset.data_type or dataset.folder}"
        then = measured[dataset.data_type]
        for rule in DATA:
            yield _in_snapshots(_applied(rule, then, dataset, of), then, dataset)
        if dataset.snapshot is not None:
            yield _applied(SNAPSHOT, then, dataset, of)


def _in_snapshots(checked: Checked, then: Dataset, now: Dataset) -> Checked:
    """A difference, with the snapshots that it lies between."""
    if checked.holds or None in (then.snapshot, now.snapshot) or then.snapshot == now.snapshot:
        return checked
    return replace(
        checked,
        then=f"{checked.then} in snapshot {then.snapshot}",
        now=f"{checked.now} in snapshot {now.snapshot}",
    )


def _names(datasets: Sequence[Dataset]) -> str:
    return ", ".join(sorted(dataset.data_type or dataset.folder for dataset in datasets)) or "none"
