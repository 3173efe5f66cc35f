"""Verify a loader: run it in planned situations, and name each row that is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from ...loaders.base.errors import InputError, unknown
from ...loaders.base.machine import is_installed
from ...loaders.base.settings import DEFAULT_BATCH_SIZE, LoaderSettings, check_count
from ...loaders.choosing.custom import load_factory
from ...loaders.choosing.profile import Job
from ..plan.source import open_source
from ..plan.spec_file import SpecFile
from ..record.results import Verdict
from ..system.scratch import scratch
from ..system.units import counted
from ..trial.protocol import HALF, Wrapper
from ..trial.rank import state_path
from ..trial.rank_loaders import BUILT_IN
from ..trial.reference import matrices
from ..trial.row_index import FileRows, RowIndex
from ..trial.work import Data
from .checks import Checker, halves, without_last
from .deliveries import Epoch, tally
from .findings import Finding, Kind
from .group import PACKAGES, GroupFailure, GroupRun, Groups
from .outcome import Ran, Verified
from .situations import Situation, plan
from .values import changed_value
from .view import as_lines, as_markdown

WRAPPERS: tuple[Wrapper, ...] = ("none", "accelerate", "lightning")
MOST_RANKS = 64
_FRAME = re.compile(r'^  File "(.+)", line (\d+), in ', re.MULTILINE)
FAILURES: dict[Verdict, Kind] = {"hang": "hang", "error": "error"}
"""The kinds of findings by the verdict on a process; any other is a crash."""


class Verification(Verified):
    """What verifying a loader has found; it shows itself as text, and in notebooks."""

    def __str__(self) -> str:
        return "\n".join(as_lines(self))

    def _repr_markdown_(self) -> str:
        return as_markdown(self)


def verify_loader(
    data: str | Path,
    *,
    loader: str = "pytorch",
    job: Job = "batches",
    data_type: str | None = None,
    columns: Sequence[str] | None = None,
    target: str | None = None,
    files: int | None = None,
    ranks: Sequence[int] | int = (1, 2),
    epochs: int = 2,
    resume: bool = False,
    wrapper: Wrapper = "none",
    batch_size: int = DEFAULT_BATCH_SIZE,
    workers: int = 2,
    shuffle: bool = True,
    drop_last: bool = False,
    seed: int = 0,
    strict: bool = False,
    timeout: float = 60.0,
    tell: Callable[[str], None] = lambda _: None,
) -> Verification:
    """Check that a loader delivers every row once in each epoch.

    Each situation runs in new processes, one per rank, which know their rank by the variables of
    torchrun, by torch.distributed (gloo) and by TF_CONFIG.

    Args:
        data: as DATA of the commands.
        loader: `pytorch`, `tensorflow`, or a function as `package.module:factory`.
        job: `batches` or `stream`.
        data_type: of a storage; by default the one with the most bytes.
        columns: the features; by default all numbers, booleans and decimals.
        target: a further column.
        files: how many files to load, from the first on; all by default.
        ranks: the numbers of ranks to run, such as `[1, 2, 4]`.
        epochs: to run with each number of ranks.
        resume: also stop after half an epoch, and after an epoch, and continue from the state:
            on as many ranks, and on the next number of `ranks`. Two epochs are then run at least.
        wrapper: `none`, `accelerate` or `lightning`: what divides the rows among the ranks.
        batch_size: rows of a step of one rank.
        workers: `num_workers` of the settings.
        shuffle: whether epochs are shuffled.
        drop_last: whether a last step that is not full may be left out.
        seed: of the order.
        strict: whether rows that are left out or repeated so that ranks take equal steps are
            faults.
        timeout: seconds in which a rank must deliver rows.
        tell: called with a line after each situation.

    Raises:
        InputError: a value that is not allowed, or a loader that cannot be verified: batches that
            are not rows of numbers, or no state to resume from.
        StorageError, ColumnError, ParquetFileError: the data cannot be read.
    """
    ranks = [ranks] if isinstance(ranks, int) else list(ranks)
    _check(ranks, epochs, wrapper, job, loader, timeout)
    source = open_source(str(data), data_type)
    chosen = source.trial_data([job], list(columns) if columns else None, target, NO_FILE)
    if files is not None:
        check_count("files", files, 1, len(chosen.paths))
        chosen = chosen.only(range(files))
    settings = LoaderSettings(
        backend=loader, num_workers=workers, cache="none", batch_size=batch_size,
        shuffle=shuffle, drop_last=drop_last, seed=seed, pin_memory=False,
    )  # fmt: skip
    situations = plan(
        list(dict.fromkeys(ranks)), epochs, shuffle=shuffle, resume=resume,
        wrapped=wrapper != "none",
    )  # fmt: skip
    with scratch() as folder:
        index, names = _indexed(chosen, Path(folder))
        if index.rows < max(ranks):
            raise InputError(
                f"the files have {counted(index.rows, 'row')} and ranks asks for {max(ranks)}; "
                "every rank needs one"
            )
        checker = Checker(index, names, batch_size, drop_last, strict)
        groups = Groups(
            chosen, job, loader, settings, wrapper, Path(folder), timeout, resumes=resume
        )
        with groups:
            verifier = _Verifier(groups, checker, chosen, tell)
            for number, situation in enumerate(situations, start=1):
                verifier.run(situation, f"{number} of {len(situations)}")
    return Verification(
        loader, job, wrapper, source.data_type, index.rows, verifier.ran,
        [*checker.equal_rows(), *verifier.findings],
    )  # fmt: skip


NO_FILE = SpecFile(None, {})


def _check(
    ranks: Sequence[int], epochs: int, wrapper: str, job: str, loader: str, timeout: float
) -> None:
    if not ranks:
        raise InputError("ranks is empty; give at least one number of ranks, such as 1")
    for number in ranks:
        check_count("ranks", number, 1, MOST_RANKS)
    check_count("epochs", epochs, 1)
    if not timeout > 0:
        raise InputError(f"timeout is {timeout:g} s; it must be positive")
    if wrapper not in WRAPPERS:
        raise InputError(unknown("wrapper", wrapper, WRAPPERS))
    if job not in ("batches", "stream"):
        raise InputError(unknown("job", job, ("batches", "stream")))
    module = PACKAGES.get(wrapper)
    if module is not None and not is_installed(module):
        name = module.replace("_", "-")
        raise InputError(
            f"the wrapper {wrapper} needs {name}, which is not installed: pip install {name}"
        )
    if loader not in BUILT_IN:
        if load_factory(loader) is None:
            raise InputError(f"{unknown('loader', loader, BUILT_IN)}, or package.module:factory")
    elif not is_installed({"pytorch": "torch"}.get(loader, loader)):
        raise InputError(f"the {loader} loader is not installed; see the extras in the README")


def _indexed(data: Data, folder: Path) -> tuple[RowIndex, FileRows]:
    """Number the rows of the files, as plain pandas reads them."""
    counts = []

    def parts() -> Iterator[np.ndarray]:
        for matrix in matrices(data):
            counts.append(len(matrix))
            yield matrix

    index = RowIndex.of(parts())
    index.save(folder)
    return index, FileRows(data.paths, counts)


@dataclass
class _Verifier:
    """Runs situations and checks what they deliver."""

    groups: Groups
    checker: Checker
    data: Data
    tell: Callable[[str], None]
    findings: list[Finding] = field(default_factory=list)
    ran: list[Ran] = field(default_factory=list)
    _whole: dict[int, GroupRun] = field(default_factory=dict)
    _file: tuple[int, np.ndarray] | None = None

    def run(self, situation: Situation, count: str) -> None:
        """Run a situation, unless the one that it continues has failed."""
        base = self._whole.get(situation.ranks_before or situation.ranks)
        resume = []
        if base is None and situation.purpose not in {"whole", "in-order"}:
            return
        if situation.position is not None and base is not None:
            if any(situation.position not in done.kept for done in base.done):
                text = "not run: an epoch is too short to stop within it"
                self._add(
                    situation, None, [Finding("not-run", str(situation), None, text)], 0, count
                )
                return
            writers = base.requests[:1] if self.groups.wrapper == "lightning" else base.requests
            resume = [state_path(request, situation.position) for request in writers]
        began = perf_counter()
        try:
            run = self.groups.run(situation, resume)
        except GroupFailure as failed:
            kind = FAILURES.get(failed.failure.verdict, "crash")
            text = f"rank {failed.rank}: {failed}{_place(failed.failure.traceback)}"
            found = [Finding(kind, str(situation), None, text)]
            self._add(situation, None, found, perf_counter() - began, count)
            return
        if situation.purpose == "whole":
            self._whole[situation.ranks] = run
        found = [*self._found(situation, run, base)]
        self._add(situation, run, found, perf_counter() - began, count)

    def _add(
        self, situation: Situation, run: GroupRun | None, found: list[Finding], seconds: float,
        count: str,
    ) -> None:  # fmt: skip
        self.findings += found
        faults = sum(one.is_fault for one in found)
        epochs = [] if run is None else run.epochs
        rows = sum(len(part.classes) for part in epochs[0]) if epochs else 0
        steps = [len(part.steps) for part in epochs[0]] if epochs else []
        self.ran.append(Ran(str(situation), rows, steps, faults, seconds))
        result = counted(faults, "fault") if faults else "not run" if run is None else "ok"
        self.tell(f"{count}: {situation}: {rows:,} rows in {seconds:.1f} s, {result}")

    def _found(
        self, situation: Situation, run: GroupRun, base: GroupRun | None
    ) -> Iterator[Finding]:
        check = self.checker
        before: Epoch = []
        rest: Epoch | None = None
        if situation.position == HALF and base is not None:
            steps = [done.kept[HALF] for done in base.done]
            before, rest = halves(base.epochs[0], steps)
        for offset, epoch in enumerate(run.epochs):
            number = situation.first_epoch + offset
            earlier = before if offset == 0 else []
            found = [*check.rows(situation, number, epoch, before=earlier)]
            yield from (self._with_value(one, run, epoch, earlier) for one in found)
            yield from check.steps(situation, number, epoch)
            if not situation.shuffle and not earlier and not _are_faults(found):
                is_padded = any(one.kind == "padding" for one in found)
                yield from check.in_order(
                    situation, number, without_last(epoch) if is_padded else epoch
                )
            if situation.purpose == "whole" and situation.shuffle and not _are_faults(found):
                last = run.epochs[offset - 1] if offset else None
                yield from check.shuffled(situation, number, epoch, last)
            compared = situation.purpose == "again" or situation.ranks_before == situation.ranks
            if base is not None and compared and not _are_faults(found):
                expected = rest if rest is not None and not offset else base.epochs[number]
                than = "before" if situation.purpose == "again" else "without the interruption"
                yield from check.same(situation, number, epoch, expected, than)
        changed = sum(sum(done.changed.values()) for done in run.done)
        if changed:
            text = (
                f"{counted(changed, 'batch')} changed after delivery: the loader "
                "reuses memory that its user still holds"
            )
            yield Finding("changed-batch", str(situation), None, text, changed)

    def _with_value(self, found: Finding, run: GroupRun, epoch: Epoch, before: Epoch) -> Finding:
        """Name the row and the column of a row with other values, if they are known."""
        if found.kind != "other-values" or found.epoch is None:
            return found
        texts = [row for done in run.done for row in done.unknown.get(found.epoch, [])]
        unknown = [[float(value) for value in row] for row in texts]
        lost = tally(self.checker.index, [*before, *epoch]).lost
        names = self.data.matrix_columns
        for row in unknown:
            if (difference := changed_value(row, lost, names, self._read)) is not None:
                number, text = difference
                name = self.checker.files.name(number)
                more = f" and {found.count - 1:,} more" if found.count > 1 else ""
                text = f"{found.text}: {name}: {text}{more}"
                return replace(found, text=text, rows=(name,))
        return found

    def _read(self, number: int) -> np.ndarray:
        """The values of a row; the file that was read last is kept."""
        at, row = self.checker.files.place(number)
        if self._file is None or self._file[0] != at:
            self._file = at, next(matrices(self.data.only([at])))
        values: np.ndarray = self._file[1][row]
        return values


def _place(traceback: str) -> str:
    """Where the innermost frame in Python is, in brackets; empty if there is none."""
    frames = [frame for frame in _FRAME.findall(traceback) if Path(frame[0]).exists()]
    return f" ({frames[-1][0]}, line {frames[-1][1]})" if frames else ""


def _are_faults(found: Sequence[Finding]) -> bool:
    return any(one.is_fault for one in found)
