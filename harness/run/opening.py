"""Open a sweep before it is measured: its data, its trials, its journal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from ...loaders.base.errors import InputError
from ..plan.emulated_storage import as_emulation, emulated
from ..plan.host import Host
from ..plan.source import Source, open_source
from ..plan.spec import Spec, Trial, for_objects, plan, planned_by_job
from ..plan.spec_file import SpecFile
from ..record.journal import Journal, new_results_file
from ..record.results import Header, Sample
from ..show.progress import Progress, Silent, make_progress
from ..system.memory import memory_allowance
from ..system.pagecache import PageCache
from ..system.stopping import finishing
from ..trial.work import Data
from .child_executor import ChildExecutor
from .executor import Executor
from .prediction import check_memory, rows_of
from .scheduler import Scheduler, check_resumable

MakeExecutor = Callable[[Data, Spec, int], Executor]
"""Makes an executor from the data, the spec and the number of the latest launch."""


def child_processes(data: Data, spec: Spec, launched: int) -> Executor:
    """Make the executor that runs a spec's trials in child processes."""
    page_cache = msgspec.convert(spec.page_cache, PageCache)
    return ChildExecutor(
        data,
        spec.timeout_s,
        launched,
        page_cache=page_cache,
        consumer=spec.consumer,
        max_memory=memory_allowance(),
        ranks=spec.local_ranks,
    )


@dataclass(frozen=True)
class Run:
    """A sweep about to be measured."""

    spec: Spec
    source: Source
    data: Data
    trials: list[Trial]
    journal: Journal
    path: Path
    known: list[Sample]
    is_new: bool
    host: Host

    @classmethod
    def open(
        cls,
        data: str | os.PathLike[str],
        spec: Spec,
        file: SpecFile,
        results: str | os.PathLike[str] | None,
        command: str,
        *,
        resume: bool,
        host: Host | None = None,
    ) -> Run:
        """Open the data and the journal, and plan the trials for a host; by default, this one.

        Raises:
            FeedrateError: bad input; or, with `resume`, a journal of another sweep.
        """
        host = host or Host.here()
        if resume and results is None:
            raise InputError("--resume needs --results FILE, the sweep to continue")
        with file.at("data_type"):
            source = open_source(os.fspath(data), spec.data_type)
        emulation = None
        if spec.emulate_storage is not None:
            with file.at("emulate_storage"):
                emulation = as_emulation(spec.emulate_storage)
                source = emulated(source, emulation)
        with file.at("requests"):
            spec.check_requests(of_objects=source.of_objects)
        with file.at("page_cache"):
            spec.check_page_cache(of_objects=source.of_objects)
        if source.of_objects:
            spec = for_objects(spec)
        source.check_rows()
        trial_data = source.trial_data(spec.jobs, spec.columns, spec.target, file)
        with file.at("files"):
            trials = plan(spec, len(source.files), host)
        path = new_results_file() if results is None else Path(results)
        known: list[Sample] = []
        is_new = not (resume and path.exists())
        if not is_new:
            journal, earlier = Journal.resume(path)
            known = earlier.samples
            changes = check_resumable(earlier, spec, source.dataset, host.machine)
            if earlier.header.emulated != emulation:
                changes.append("the emulated storage is another one")
            if changes:
                journal.close()
                raise InputError(f"cannot resume {path}: {'; '.join(changes)}; name another file")
        else:
            header = Header(
                spec=msgspec.to_builtins(spec),
                environment=host.machine,
                dataset=source.dataset,
                command=command,
                planned=planned_by_job(trials),
                emulated=emulation,
            )
            journal = Journal.create(path, header, overwrite=results is None)
        return cls(spec, source, trial_data, trials, journal, path, known, is_new, host)

    def notes(self) -> list[str]:
        """Notes on assumptions that were made for the user."""
        notes = []
        if self.spec.consumer is not None and "frame" in self.spec.jobs:
            notes.append("--consumer does not apply to the frame job")
        if self.spec.local_ranks > 1:
            notes.append(
                f"each figure is of one loader, the slowest of {self.spec.local_ranks} that ran at "
                f"once; a profile is used where LOCAL_WORLD_SIZE is {self.spec.local_ranks}"
            )
        if self.spec.target is not None and self.spec.jobs == ["frame"]:
            notes.append("--target does not apply to the frame job; --job batches trains on it")
        if self.spec.data_type is None and self.source.others:
            names = ", ".join([self.source.data_type, *self.source.others])
            measured = f"measured on {self.source.data_type}, which has the most bytes of {names}"
            notes.append(f"{measured}; --data-type chooses another")
        return notes

    @contextmanager
    def scheduler(
        self, make_executor: MakeExecutor, progress: Progress | Literal[False] | None
    ) -> Iterator[Scheduler]:
        """Yield the scheduler of the trials; at the end, also after errors, end all processes."""
        launched = max((sample.launch for sample in self.known), default=0)
        executor = make_executor(self.data, self.spec, launched)
        display = make_progress() if progress is None else progress or Silent()
        exceeds = check_memory(self.data, wanted=self.spec.max_memory_bytes, free=self.host.memory)
        try:
            yield Scheduler(
                spec=self.spec,
                trials=self.trials,
                executor=executor,
                journal=self.journal,
                known=self.known,
                progress=display,
                exceeds=exceeds,
                rows=lambda files: rows_of(self.data.first(files)),
            )
        finally:
            with finishing():
                try:
                    display.close()
                finally:
                    executor.close()
