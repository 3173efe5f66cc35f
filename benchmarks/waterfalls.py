"""Compare the sum of a pass's measured stages with a pass without measuring stages."""

from __future__ import annotations

from feedrate.harness.record.metrics import STAGES
from feedrate.harness.record.stages import complete_stages
from feedrate.harness.trial.work import Data
from feedrate.harness.trial.workload import prepare
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.choosing.registry import get_backend

from .data import Setup
from .interleave import Comparison, Prepared, Side

SETTINGS = LoaderSettings(backend="pytorch", num_workers=2, prefetch=2, cache="none")


def prepare_flights(setup: Setup) -> Prepared:
    paths = setup.files("flights")
    data = Data(paths=list(paths), columns=None, features=[], target=None)
    work = prepare("frame", SETTINGS, len(paths), data)
    alone, _ = work.alone("as-is")

    def added_up() -> float:
        metrics = complete_stages(work.visit().metrics | alone)
        return sum(metrics[f"stage_{stage}_s"] or 0.0 for stage in STAGES)

    loader = get_backend("pytorch").frame(SETTINGS, None, "concat", "raise")
    return Prepared(
        {
            "stages added up": Side(added_up, measures_itself=True),
            "whole": Side(lambda: loader.load(paths)),
        }
    )


COMPARISONS = (
    Comparison(
        "waterfall-flights",
        "the stages of loading flights, added up, and loading them",
        ("stages added up", "whole"),
        15,
        prepare_flights,
    ),
)
