"""The cost of comparing loads with the profile, relative to the shortest loads."""

from __future__ import annotations

from feedrate.loaders import LoaderSettings
from feedrate.loaders.choosing.profile import Entry, Evidence, Rate
from feedrate.loaders.choosing.promise import Promises
from msgspec import structs

from .data import Setup
from .interleave import Comparison, Prepared, Side

NOTED = 100  # loads in one sample, since one takes microseconds
# No load is slower.
RATE = Rate(rows_per_s=1.0, low=1.0, high=1.0, lowest=1.0, confidence=0.95, launches=6)


def prepare_notes(setup: Setup) -> Prepared:
    paths = setup.files("flights")
    settings = LoaderSettings(backend="pytorch", num_workers=2, prefetch=2, cache="memory")
    evidence = Evidence(
        strength="strong", why="", launches=6, passes=3, total_s=1.0, first_pass_s=1.0,
        rows=336_776, rows_per_s=1.0, speedup=None, speedup_low=None, speedup_high=None,
        confidence=None, peak_pss_bytes=None, first=RATE, later=RATE,
    )  # fmt: skip
    entry = Entry(
        job="frame", data_type="flights", files=len(paths), max_files=None, settings=settings,
        evidence=evidence,
    )  # fmt: skip
    loader, promises = setup.loader(**structs.asdict(settings)), Promises("feedrate tune DATA")
    rows = len(loader.load_files(paths))

    def note() -> None:
        for _ in range(NOTED):
            promise = promises.of(entry, "flights", None)
            if promise is not None:
                promise.note(rows, 0.003, first=False)

    return Prepared(
        {"noting a load": Side(note), "a load from memory": Side(lambda: loader.load_files(paths))}
    )


COMPARISONS = (
    Comparison(
        "promise",
        f"noting {NOTED} loads, and one load of flights from the memory cache",
        ("noting a load", "a load from memory"),
        15,
        prepare_notes,
    ),
)
