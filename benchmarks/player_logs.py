"""An executor that runs `load_historical_player_logs` in fresh processes."""

from __future__ import annotations

import importlib
import time
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from feedrate.harness.plan.spec import Trial
from feedrate.harness.record.results import Phase
from feedrate.harness.run.executor import PassSample, TrialRun
from feedrate.harness.trial.fingerprint import Fingerprint, frame_fingerprint
from feedrate.loaders import HistoricalDataLoader, OptimizedHistoricalDataLoader, ParquetStorage
from feedrate.loaders.choosing.profile import Job
from feedrate.loaders.choosing.registry import get_backend

from .fresh import Ready, run_fresh

ORIGINAL = "original"
DATA_TYPE = "box_scores"


@dataclass(frozen=True)
class Asked:
    """The storage and the dates to load, as YYYYMMDD; the end date is excluded."""

    storage_dir: str
    start_date: str | None
    end_date: str


def load_task(options: dict[str, Any], ready: Ready) -> tuple[Any, Any]:
    """Load several times in this process; return the seconds of each call, and the last frame.

    The framework is imported before; other imports and starts of the first call count.
    """
    storage = ParquetStorage(options["storage_dir"])
    loader = _loader(storage, options["loader"])
    if (module := get_backend(options["loader"]).module) is not None:
        importlib.import_module(module)
    ready()
    seconds: list[float] = []
    frame = None
    for _ in range(options["calls"]):
        frame = None  # the next call can reuse its memory
        start = time.perf_counter()
        frame = loader.load_historical_player_logs(options["start_date"], options["end_date"])
        seconds.append(time.perf_counter() - start)
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
        """Load `passes` times in a fresh process; the rows are always verified."""
        del verify
        return self._loaded(trial.backend, passes)

    def reference(self, job: Job, files: int, *, ordered: bool, **__: Any) -> TrialRun:
        """The original's rows."""
        del job, files, ordered
        return self._loaded(ORIGINAL, 1)

    def _loaded(self, loader: str, calls: int) -> TrialRun:
        try:
            found = run_fresh(load_task, asdict(self.asked) | {"loader": loader, "calls": calls})
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1]
            return TrialRun([], verdict="error", message=last)
        rows = found["rows"]
        calls = [
            PassSample(rows, {"wall_s": took, "rows_per_s": rows / took if took else None}, {})
            for took in found["seconds"]
        ]
        return TrialRun(calls, msgspec.convert(found["fingerprint"], Fingerprint))

    def close(self) -> None:
        """Nothing: every process has ended."""
