"""All requirements with their numbers, and how measurements are judged by them."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ORIGINAL = "original"
PYTORCH, TENSORFLOW = "feedrate pytorch", "feedrate tensorflow"
OURS = "feedrate"

AT_LEAST, ABOVE, AT_MOST, BELOW = "≥", ">", "≤", "<"
_HOLDS: dict[str, Callable[[float, float], bool]] = {
    AT_LEAST: operator.ge,
    ABOVE: operator.gt,
    AT_MOST: operator.le,
    BELOW: operator.lt,
}


@dataclass(frozen=True)
class Measure:
    """How the samples of a round become the figure that a requirement limits."""

    of: Callable[[float, float], float]
    """Takes our sample and the peer's; without a peer, ours twice."""
    show: Callable[[float], str]


def show_times(value: float) -> str:
    """A ratio to three digits, whole from 100 on."""
    return f"{value:.0f}x" if value >= 100 else f"{value:.3g}x"


SPEEDUP = Measure(lambda ours, peer: peer / ours, show_times)
TIMES = Measure(lambda ours, _: ours, "{:.2f}x".format)
GROWTH = Measure(lambda ours, peer: ours / peer - 1, "{:+.1%}".format)
RATIO = Measure(lambda ours, peer: ours / peer, "{:.2f}x".format)
ADDED = Measure(lambda ours, peer: ours - peer, "{:.1f} MiB".format)


@dataclass(frozen=True)
class Requirement:
    """One row of the table."""

    job: str
    data: str
    comparison: str
    """The name of the comparison that measures it."""
    ours: str
    peer: tuple[str, ...]
    """The sides to compare ours with: the fastest in each round counts; empty if our sample is the
    figure."""
    relation: str
    bound: float
    measure: Measure = SPEEDUP
    facts: tuple[str, ...] = ()
    """Facts that must hold, too, by the comparison's names for them."""

    @property
    def must_be(self) -> str:
        """The requirement in words."""
        bound = self.measure.show(self.bound)
        facts = "".join(f", {fact}" for fact in self.facts)
        return " ".join((self.relation, bound, " / ".join(self.peer))).rstrip() + facts


@dataclass(frozen=True)
class Outcome:
    """A requirement and its measurements."""

    requirement: Requirement
    figures: tuple[float, ...]
    """One per round."""
    broken: tuple[str, ...]
    """The facts that do not hold."""

    @property
    def median(self) -> float:
        """The judged figure."""
        return statistics.median(self.figures)

    @property
    def met(self) -> bool:
        """Whether the median meets the bound, and all facts hold."""
        row = self.requirement
        return _HOLDS[row.relation](self.median, row.bound) and not self.broken

    @property
    def measured(self) -> str:
        """The median with the lowest and the highest round."""
        show = self.requirement.measure.show
        low, high = min(self.figures), max(self.figures)
        return f"{show(self.median)} ({show(low)} to {show(high)})"

    @property
    def verdict(self) -> str:
        """`met`, or `MISSED` with the facts that do not hold."""
        if self.met:
            return "met"
        return "MISSED" + "".join(f", not {fact}" for fact in self.broken)


def judge(
    requirement: Requirement, samples: Mapping[str, Sequence[float]], facts: Mapping[str, bool]
) -> Outcome:
    """Compare the samples of one comparison with a requirement, round by round."""
    figures = compare(requirement.measure, samples, requirement.ours, requirement.peer)
    broken = tuple(fact for fact in requirement.facts if not facts[fact])
    return Outcome(requirement, figures, broken)


def compare(
    measure: Measure, samples: Mapping[str, Sequence[float]], ours: str, peer: Sequence[str]
) -> tuple[float, ...]:
    """The figure of each round; the lowest sample of several peers counts."""
    mine = samples[ours]
    theirs = [min(values) for values in zip(*(samples[name] for name in peer), strict=True)]
    return tuple(measure.of(*pair) for pair in zip(mine, theirs or mine, strict=True))


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """0 if there are outcomes and all are met, else 1."""
    return int(not outcomes or not all(outcome.met for outcome in outcomes))


FLIGHTS = "flights, 365 files"
LINEITEM = "lineitem, 60 files, all 16 columns"
MATRIX = "1M x 32 float32 + target"
INTEGERS = "lineitem, 60 files, 4 integer columns"
TF_PLAIN = "tf.data"
TORCH_PLAIN = "DataLoader(TensorDataset)"
TORCH_PINNED = f"{TORCH_PLAIN}, pinned"
COPIED, TO_DEVICE = f"{PYTORCH}, .to(device)", f"{PYTORCH}, to_device"
DEVICE_SIZES = (256, 1024, 8192)  # of batches that go to a GPU
ONE_COPY, STEPS_ALONE = "one copy of all rows", "steps on one batch"
COPY_LOOP = "pinned batches, copied"
GATHERS = ("np.take", "torch.index_select")
HUGGING_FACE = "Hugging Face datasets"
RAY = "Ray Data"
FRAME_PEERS = ("polars", "pyarrow.dataset", "pyarrow tables", "duckdb")
KEEP_CATEGORIES = ("pyarrow.dataset", "pyarrow tables")  # peers that keep unused categories
TWO_OF_TEN, TWO_ALONE = f"{OURS}, two seasons of ten", f"{OURS}, those two alone"
SEASONS = "box scores, 1,650 daily files"
KINDS = {
    "plain": ("400 daily files of 200 rows", FRAME_PEERS),
    "category": ("…and a category", KEEP_CATEGORIES),
    "other-categories": ("…others each day", FRAME_PEERS),
    "nullable": ("…and a nullable Int64", FRAME_PEERS),
    "bools": ("…and booleans with nulls", FRAME_PEERS),
    "zoned": ("…and a zoned timestamp", FRAME_PEERS),
    "decimals": ("…and decimals", FRAME_PEERS),
    "dates": ("…and dates", FRAME_PEERS),
    "lists": ("…and lists", FRAME_PEERS),
    "structs": ("…and structs", FRAME_PEERS),
    "hive": ("400 daily files in date= folders", FRAME_PEERS),
    "wide": ("60 files of 500 rows, 500 columns", FRAME_PEERS),
    "one-row": ("2,000 files of one row", FRAME_PEERS),
    "tiny": ("20,000 files of 20 rows", FRAME_PEERS),
    "one-large": ("one file of 5,000,000 rows", FRAME_PEERS),
}
"""Datasets of frames, each with the peers to compare with."""
SMALL = {10: (1, None), 31: (1, 4), 100: (1, 8), 365: (1, 10)}
"""By number of small files: the required speedups of the first call and of later calls."""
CACHED = f"{OURS}, cached"
BYTES_ALONE, ONE_BY_ONE = "the bytes alone", "one answer after the other"
ONE_REQUEST = "at most 1.05 requests a file"
TRIPS = Measure(lambda ours, _: ours, "{:.2f} round trips".format)
OBJECT_STORE = "in an object store, 30 ms a request"

REQUIREMENTS = (
    Requirement("frame, no cache", FLIGHTS, "frame-flights", PYTORCH, (ORIGINAL,), AT_LEAST, 7),
    *(
        Requirement("frame, no cache", FLIGHTS, "frame-flights", PYTORCH, (peer,), ABOVE, 1)
        for peer in ("polars", "pyarrow.dataset", "duckdb", "pandas(list)")
    ),
    *(
        Requirement("frame, no cache", data, f"kinds-{kind}", PYTORCH, peers, AT_LEAST, 1.1)
        for kind, (data, peers) in KINDS.items()
    ),
    Requirement(
        "frame, no cache", INTEGERS, "kinds-integers", PYTORCH, ("polars", "pyarrow.dataset"),
        AT_LEAST, 1.1,
    ),
    Requirement(
        "frame, no cache", FLIGHTS, "frame-flights-tf", TENSORFLOW, (ORIGINAL,), AT_LEAST, 4
    ),
    Requirement("frame, no cache", LINEITEM, "frame-lineitem", OURS, (ORIGINAL,), AT_LEAST, 4),
    Requirement(
        "frame, no cache, dtype_backend='pyarrow'", LINEITEM, "frame-lineitem",
        f"{OURS} pyarrow dtypes", (ORIGINAL,), AT_LEAST, 15,
    ),
    *(
        Requirement(
            "frame, no cache", f"{FLIGHTS}, {OBJECT_STORE}", "objects-flights", PYTORCH, (peer,),
            relation, bound, facts=(ONE_REQUEST,),
        )
        for peer, relation, bound in (
            (ORIGINAL, AT_LEAST, 50), ("pyarrow.dataset", AT_LEAST, 10), ("polars", ABOVE, 1)
        )
    ),
    *(
        Requirement(
            f"frame, no cache, {network}", f"{INTEGERS}, {OBJECT_STORE}", comparison, PYTORCH,
            (BYTES_ALONE,), AT_MOST, 1.3, RATIO,
        )
        for comparison, network in (
            ("objects-lineitem", "loopback"), ("objects-lineitem-200", "200 MB/s")
        )
    ),
    Requirement(
        "stream, first batch", f"{INTEGERS}, in an object store", "objects-first-row", PYTORCH, (),
        AT_MOST, 4, TRIPS,
    ),
    Requirement(
        "listing", "100,000 objects, 30 ms a request", "objects-listing", OURS, (ONE_BY_ONE,),
        AT_LEAST, 8,
    ),
    Requirement(
        "frame, disk cache, another process", FLIGHTS, "frame-disk-cache", OURS, (ORIGINAL,),
        AT_LEAST, 100, facts=("checksum verified",),
    ),
    Requirement(
        "frame, memory cache, second call", FLIGHTS, "frame-memory-cache", OURS, (ORIGINAL,),
        AT_LEAST, 400, facts=("writable", "isolated"),
    ),
    Requirement(
        "frame, memory cache, every number read", FLIGHTS, "frame-memory-cache",
        f"{OURS}, read", (ORIGINAL,), AT_LEAST, 80,
    ),
    Requirement(
        "walk-forward, 60 days, 120 before each", FLIGHTS, "walk-forward", OURS, (ORIGINAL,),
        AT_LEAST, 40, facts=("cold at the start",),
    ),
    Requirement(
        "walk-forward, all days held by the cache", FLIGHTS, "walk-forward", f"{OURS}, all held",
        (ORIGINAL,), AT_LEAST, 200,
    ),
    Requirement(
        "first load, memory cache / none", FLIGHTS, "frame-first-load", "memory cache",
        ("no cache",), AT_MOST, 1.05, RATIO,
    ),
    *(
        Requirement(
            f"player logs, {what}", f"{files} files of 300 rows", f"player-logs-{name}-{files}",
            side, (ORIGINAL,), AT_LEAST, bound,
        )
        for files, bounds in SMALL.items()
        for what, name, side, bound in (
            ("first call", "first", OURS, bounds[0]),
            ("later calls", "later", OURS, bounds[1]),
            ("memory cache", "later", CACHED, 20 if bounds[1] else None),
        )
        if bound is not None
    ),
    *(
        Requirement(
            f"player logs, {how}", SEASONS, comparison, TWO_OF_TEN, (TWO_ALONE,), AT_MOST, 1.3,
            RATIO,
        )
        for how, comparison in (
            ("no cache", "seasons"), ("memory cache, first call", "seasons-first")
        )
    ),
    *(
        Requirement(
            f"batches of {size}, pytorch", MATRIX, f"torch-batches-{size}", PYTORCH,
            (TORCH_PLAIN,), AT_LEAST, bound,
        )
        for size, bound in ((32, 30), (256, 75), (1024, 100))
    ),
    *(
        Requirement(
            f"batches of {size}, to a GPU", MATRIX, f"device-batches-{size}", TO_DEVICE,
            (TORCH_PLAIN, TORCH_PINNED, COPIED), ABOVE, 1,
        )
        for size in DEVICE_SIZES
    ),
    Requirement(
        "batches of 1024, to a GPU, of pinned copies", MATRIX, "device-batches-1024", TO_DEVICE,
        (COPY_LOOP,), AT_LEAST, 0.85,
    ),
    Requirement(
        "batches of 1024, pytorch, of the gather rate", MATRIX, "torch-gather-1024", PYTORCH,
        GATHERS, AT_LEAST, 0.45,
    ),
    *(
        Requirement(
            f"batches of {size}, tensorflow, {how}", data, f"tf-{name}-{size}", TENSORFLOW,
            (TF_PLAIN,), AT_LEAST, bound,
        )
        for size, how, name, data, bound in (
            (32, "in-graph", "reduce", MATRIX, 2.5),
            (32, "Python loop", "loop", MATRIX, 0.95),
            (1024, "Python loop", "loop", MATRIX, 10),
            (32, "model.fit", "fit", "131,072 rows of it", 0.95),
            (1024, "model.fit", "fit", MATRIX, 2),
        )
    ),
    Requirement(
        "stream, shuffled, pytorch", INTEGERS, "stream", PYTORCH, (HUGGING_FACE,), AT_LEAST, 20
    ),
    Requirement(
        "stream, shuffled, pytorch", INTEGERS, "stream-pyarrow", PYTORCH, ("pyarrow to_batches",),
        AT_LEAST, 0.6,
    ),
    Requirement(
        "stream, shuffled over 4 files, pytorch", INTEGERS, "stream", f"{PYTORCH}, window 4",
        (HUGGING_FACE,), AT_LEAST, 15,
    ),
    *(
        Requirement(
            f"stream, ten times the files, {backend}", INTEGERS, f"memory-stream-{backend}",
            "600 files", ("60 files",), BELOW, 0.10, GROWTH,
        )
        for backend in ("pytorch", "tensorflow")
    ),
    *(
        Requirement(
            f"frame, {cache} cache, peak memory / result", data, f"memory-frame-{cache}-{what}",
            PYTORCH, (), AT_MOST, 1.5, TIMES,
        )
        for cache in ("no", "memory")
        for what, data in (("flights", FLIGHTS), ("integers", INTEGERS))
    ),
    *(
        Requirement(
            f"time of a frame by its stages, {what}", FLIGHTS, "waterfall-flights",
            "stages added up", ("whole",), relation, bound, RATIO,
        )
        for what, relation, bound in (("at least", AT_LEAST, 0.9), ("at most", AT_MOST, 1.1))
    ),
    Requirement(
        "comparing 100 loads with the profile", FLIGHTS, "promise", "noting a load",
        ("a load from memory",), BELOW, 0.5, RATIO,
    ),
    Requirement(
        "memory a worker process adds", "rows in memory", "memory-workers", "all rows",
        ("a few rows",), AT_MOST, 40, ADDED, facts=("on 1 GiB",),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Limit:
    """A limit to compare ours with; shown, not required."""

    comparison: str
    ours: str
    limit: str
    """A side that does only the unavoidable part of the work."""
    note: str = ""


LIMITS = (
    *(
        Limit("frame-flights", PYTORCH, limit, note)
        for limit, note in (
            ("polars, decode only", "no DataFrame"),
            ("pyarrow, decode only", "2 threads, no DataFrame"),
            ("deep copy of the frame", "no decoding"),
        )
    ),
    *(
        Limit("frame-lineitem", side, limit, "no DataFrame")
        for side in (OURS, f"{OURS} pyarrow dtypes")
        for limit in ("polars, decode only", "pyarrow, decode only")
    ),
    Limit("frame-memory-cache", OURS, "deep copy of the frame"),
    Limit("seasons-again", TWO_OF_TEN, TWO_ALONE, "a fifth of the files"),
    Limit("frame-memory-cache", f"{OURS}, read", "numbers of a frame read"),
    *(
        Limit(f"torch-gather-{size}", PYTORCH, side, "whole matrix, buffer reused")
        for size in (32, 256, 1024)
        for side in GATHERS
    ),
    *(
        Limit(f"device-batches-{size}", TO_DEVICE, ONE_COPY, "pinned, no order, no batches")
        for size in DEVICE_SIZES
    ),
    Limit("device-training", TO_DEVICE, STEPS_ALONE, "no loading"),
    *(
        Limit(f"tf-{how}-{size}", TENSORFLOW, "constant batches", "the iterator alone")
        for how, size in (("reduce", 32), ("loop", 32), ("loop", 1024))
    ),
    Limit("stream-pyarrow", PYTORCH, "pyarrow, decode only", "2 threads, no batches"),
    *(
        Limit("stream-shuffled-peers", PYTORCH, peer, "a peer, for comparison")
        for peer in (f"{HUGGING_FACE}, shuffled", RAY)
    ),
)
