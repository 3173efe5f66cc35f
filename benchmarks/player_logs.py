"""`load_historical_player_logs` as something that the harness runs, in fresh processes."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from feedrate.harness.executor import PassSample, TrialRun
from feedrate.harness.fingerprint import Fingerprint, frame_fingerprint
from feedrate.harness.results import Phase
from feedrate.harness.spec import Trial
from feedrate.loaders import HistoricalDataLoader, OptimizedHistoricalDataLoader, ParquetStorage
from feedrate.loaders.profile import Job

from .fresh import Ready, run_fresh

ORIGINAL = "original"
DATA_TYPE = "box_scores"
WARM_UP_FILES = 8  # after which everything is imported, and its threads are there


@dataclass(frozen=True)
class Asked:
    """What is loaded, and from where; dates are YYYYMMDD, the end is not part of it."""

    storage_dir: str
    start_date: str | None
    end_date: str


def load_task(options: dict[str, Any], ready: Ready) -> tuple[Any, Any]:
    """Load once in this process: the seconds it took, and what came."""
    storage = ParquetStorage(options["storage_dir"])
    loader = _loader(storage, options["loader"])
    _loader(storage, options["loader"]).load_files(storage.files(DATA_TYPE)[:WARM_UP_FILES])
    ready()
    start = time.perf_counter()
    frame = loader.load_historical_player_logs(options["start_date"], options["end_date"])
    seconds = time.perf_counter() - start
    found = msgspec.to_builtins(frame_fingerprint(frame))
    return {"seconds": seconds, "rows": len(frame), "fingerprint": found}, frame


def _loader(storage: ParquetStorage, name: str) -> HistoricalDataLoader:
    if name == ORIGINAL:
        return HistoricalDataLoader(storage)
    return OptimizedHistoricalDataLoader(storage, name, enable_cache=False)


@dataclass(frozen=True)
class PlayerLogs:
    """Runs trials by loading the player logs with the trial's backend."""

    asked: Asked

    def run(self, trial: Trial, _: Phase, *, passes: int, verify: bool, **__: Any) -> TrialRun:
        """Load once, in a fresh process; the rows are always verified."""
        del passes, verify
        return self._loaded(trial.backend)

    def reference(self, job: Job, files: int, *, ordered: bool, **__: Any) -> TrialRun:
        """The original's rows."""
        del job, files, ordered
        return self._loaded(ORIGINAL)

    def _loaded(self, loader: str) -> TrialRun:
        try:
            found = run_fresh(load_task, asdict(self.asked) | {"loader": loader})
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1]
            return TrialRun([], verdict="error", message=last)
        rows, seconds = found["rows"], found["seconds"]
        metrics = {"wall_s": seconds, "rows_per_s": rows / seconds if seconds else None}
        digest = msgspec.convert(found["fingerprint"], Fingerprint)
        return TrialRun([PassSample(rows, metrics, {})], digest)

    def close(self) -> None:
        """Nothing: every process has ended."""
