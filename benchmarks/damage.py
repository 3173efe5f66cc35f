"""Load damaged files and documents: `python -m benchmarks.damage`, ten minutes on two cores.

Every damage has a fixed seed. Files are compared with pandas: feedrate must refuse a file that
pandas refuses, deliver equal rows of a file that pandas loads, and leave the good files beside it
intact, also in the cache. Documents may raise only feedrate's own errors. The results go to
`benchmarks/DAMAGE.md`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from feedrate.harness.gate.pytest_files import gate_pytest
from feedrate.harness.gate.spec import load_gate_spec
from feedrate.harness.plan.spec import Spec
from feedrate.harness.plan.spec_file import read_spec
from feedrate.harness.record.journal import encode_line
from feedrate.harness.record.results import Header, read_results
from feedrate.loaders.base.errors import FeedrateError
from feedrate.loaders.base.machine import fingerprint
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.caching.base import Form, Key
from feedrate.loaders.caching.disk_segment import (
    DamagedError,
    Entry,
    Index,
    OtherVersionError,
    Stream,
    decode_index,
    encode_index,
)
from feedrate.loaders.caching.tiers import make_cache
from feedrate.loaders.choosing.profile import Profile
from feedrate.loaders.choosing.registry import get_backend
from feedrate.loaders.frames import engine
from feedrate.loaders.parquet.dataset import describe
from feedrate.loaders.parquet.original import read_frame

REPORT = Path(__file__).parent / "DAMAGE.md"
AT_ONCE = 250  # files per process: a crash costs no more than these
ROWS = 400
SHOWN = 50  # unwanted outcomes

WAYS: dict[str, dict[str, Any]] = {
    "0 workers (Arrow)": {"num_workers": 0},
    "2 workers (polars where it may)": {"num_workers": 2},
    '2 workers, `decoder="arrow"`': {"num_workers": 2, "decoder": "arrow"},
}
REFUSED, EQUAL = "refused by both", "equal to pandas"
ACCEPTED = "accepted though pandas refuses, with other rows than before the damage"
UNCHANGED = "accepted though pandas refuses, with the rows from before the damage"
STRICTER = "refused though pandas loads it"
OTHER, NEIGHBOURS, BARE = "other rows than pandas", "good files harmed", "bare error"
CRASHED = "process ended"
PASSED = (ACCEPTED, UNCHANGED)
OUTCOMES = (EQUAL, REFUSED, UNCHANGED, ACCEPTED, STRICTER, OTHER, NEIGHBOURS, BARE, CRASHED)


def tell(text: str) -> None:
    """Print and flush: the next damage may end the process."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def tables() -> dict[str, tuple[Any, dict[str, Any]]]:
    """Frames and tables by name, with their write options."""
    draw = np.random.default_rng(0)
    numbers = pd.DataFrame({
        "i": draw.integers(0, 1000, ROWS), "x": draw.normal(size=ROWS),
        "b": draw.random(ROWS) < 0.5,
        "when": pd.Timestamp("2025-01-01") + pd.to_timedelta(draw.integers(0, 10**9, ROWS), "us"),
    })  # fmt: skip
    text = numbers.assign(
        s=[f"player {k}" for k in draw.integers(0, 40, ROWS)], u=[f"u{k}" for k in range(ROWS)]
    )
    gaps = text.mask(draw.random(text.shape) < 0.1)
    gaps = gaps.assign(i=gaps["i"].astype("Int64"))
    odd = pa.table({
        "d": [date(2025, 1, 1 + k % 28) for k in range(ROWS)],
        "p": [Decimal(k) / 4 for k in range(ROWS)],
        "c": pa.array([f"c{k % 7}" for k in range(ROWS)]).dictionary_encode(),
        "l": [[k, k + 1] if k % 3 else None for k in range(ROWS)],
        "s": [{"x": k, "y": f"y{k % 5}"} for k in range(ROWS)],
        "z": pa.array([k * 10**6 for k in range(ROWS)], pa.timestamp("us", "UTC")),
    })  # fmt: skip
    return {
        "numbers": (numbers, {}),
        "numbers and text": (text, {}),
        "with gaps": (gaps, {}),
        "with gaps, uncompressed": (gaps, {"compression": "none"}),
        "with gaps, zstd, version 2 pages": (
            gaps, {"compression": "zstd", "data_page_version": "2.0"},
        ),
        "several row groups": (text, {"row_group_size": 90}),
        "dates, decimals, categories, lists, structs": (odd, {}),
        "by polars": (pl.from_pandas(text), {}),
    }  # fmt: skip


def write(table: Any, path: Path, options: Mapping[str, Any]) -> None:
    """Write one file with the table's own library."""
    if isinstance(table, pd.DataFrame):
        table.to_parquet(path, **options)
    elif isinstance(table, pl.DataFrame):
        table.write_parquet(path, **options)
    else:
        pq.write_table(table, path, **options)


def damaged(content: bytes, seed: int) -> bytes:
    """Damage a file's bytes once: in its pages in two cases of three, otherwise in its footer."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    footer = int.from_bytes(content[-8:-4], "little") + 8
    start, stop = (4, len(content) - footer) if draw.random() < 2 / 3 else (
        len(content) - footer, len(content)
    )  # fmt: skip
    at, found = draw.randrange(start, stop), bytearray(content)
    kind = draw.choice(("bit", "bit", "byte", "zeros", "moved", "cut"))
    if kind == "bit":
        found[at] ^= 1 << draw.randrange(8)
    elif kind == "byte":
        found[at] = draw.randrange(256)
    elif kind == "zeros":
        found[at : at + 16] = bytes(len(found[at : at + 16]))
    elif kind == "moved":
        other = draw.randrange(start, stop)
        found[at : at + 8], found[other : other + 8] = found[other : other + 8], found[at : at + 8]
    else:
        del found[at : at + draw.randrange(1, 64)]
    return bytes(found)


def same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether frames have equal dtypes and bits."""
    if len(one) != len(other) or not one.dtypes.equals(other.dtypes):
        return False
    return all(_same_column(one[name], other[name]) for name in one.columns)


def _same_column(one: pd.Series, other: pd.Series) -> bool:
    if isinstance(one.dtype, pd.StringDtype):  # damaged bytes may not be valid text
        return _bytes_of(one).equals(_bytes_of(other))
    try:
        pd.testing.assert_series_equal(one, other, check_exact=True)
    except AssertionError:
        return False
    return True


def _bytes_of(column: pd.Series) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(column)]).cast(pa.large_binary()).combine_chunks()


def outcome(
    options: Mapping[str, Any], files: list[Path], alone: pd.DataFrame, undamaged: pd.DataFrame
) -> str:
    """Load a damaged file between two good ones, and return one of `OUTCOMES`."""
    settings = LoaderSettings(backend="pytorch", prefetch=0, **options)
    reader = get_backend("pytorch").frame(settings, make_cache("memory"), "concat", "raise")
    try:
        expected: pd.DataFrame | None = read_frame(files)
    except FeedrateError:
        expected = None
    try:
        found = reader.load(files)
    except FeedrateError:
        came = REFUSED if expected is None else STRICTER
    except Exception:  # noqa: BLE001 - such errors are the bugs to find
        came = BARE
    else:
        if expected is not None:
            came = EQUAL if same(found, expected) else OTHER
        else:
            came = UNCHANGED if same(found, undamaged) else ACCEPTED
    return came if same(reader.load(files[::2]), alone) else NEIGHBOURS


def load_range(first: int, stop: int) -> None:
    """Try damages `first` up to `stop`, and print the outcomes of each in a line."""
    engine.POLARS_FROM_BYTES = engine.IMPORT_S = 0
    every = tables()
    with tempfile.TemporaryDirectory() as folder:
        good: dict[str, tuple[list[Path], bytes, pd.DataFrame, pd.DataFrame]] = {}
        for name, (table, options) in every.items():
            files = [Path(folder, f"{name} {place}.parquet") for place in ("a", "b", "c")]
            for file in files:
                write(table, file, options)
            good[name] = files, files[1].read_bytes(), read_frame(files[::2]), read_frame(files)
        for seed in range(first, stop):
            name = list(every)[seed % len(every)]
            files, content, *frames = good[name]
            files[1].write_bytes(damaged(content, seed))
            came = {way: outcome(options, files, *frames) for way, options in WAYS.items()}
            tell(json.dumps({"seed": seed, "table": name, **came}))


def files_by_way(count: int) -> list[dict[str, Any]]:
    """The outcomes of each damage, including damages that ended the process."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        first = len(found)
        stop = min(count, first + AT_ONCE)
        command = [sys.executable, "-m", "benchmarks.damage", "--range", str(first), str(stop)]
        quiet = {**os.environ, "RUST_BACKTRACE": "0"}
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=quiet, check=False
        )
        found += [json.loads(line) for line in done.stdout.splitlines()]
        if len(found) < stop:
            table = list(tables())[len(found) % len(tables())]
            found.append({"seed": len(found), "table": table, **dict.fromkeys(WAYS, CRASHED)})
    return found


def documents(folder: Path) -> dict[str, tuple[bytes, Callable[[Path], object]]]:
    """Good documents by name, each with the function that reads it."""
    machine, dataset = fingerprint(), describe([])
    profile = Profile(
        created="2025-01-01",
        command="feedrate tune",
        machine=machine,
        datasets=[dataset],
        entries=[],
    )
    path = folder / "good.json"
    profile.save(path)
    header = Header(spec={"passes": 1}, environment=machine, dataset=dataset)
    entry = Entry(Key("/x/a.parquet", 1, 2, 3, 4), 0, 0, 1)
    index = Index(Form(None), [Stream(0, 64, 1, "", ())], [entry], 64, 0, 5)
    sweep = b'jobs = ["frame"]\nworkers = [0, 2]\nbudget = "20s"\n'
    gate = b'passes = 1\nthreshold = 1.1\n[[cells]]\nname = "a"\nbackend = "original"\n'
    cpu = {"cpu": {"brand_raw": "A", "count": 2}}
    benchmark = {"machine_info": cpu, "benchmarks": [{"fullname": "a", "stats": {"median": 1.0}}]}
    good = folder / "base.json"
    good.write_text(json.dumps(benchmark))
    return {
        "profile": (path.read_bytes(), Profile.load),
        "results": (encode_line(header), read_results),
        "spec of tune and sweep": (sweep, lambda file: read_spec(file, Spec, {})),
        "spec of the gate": (gate, lambda file: load_gate_spec(file, {}, None)),
        "index of the disk cache": (
            encode_index(index), lambda file: decode_index(file.read_bytes()),
        ),
        "file of pytest-benchmark": (
            good.read_bytes(), lambda file: gate_pytest([str(good), str(file)]),
        ),
    }  # fmt: skip


BOMBS = (
    b"[" * 5000, b"{" * 5000, b'{"a":' * 5000, b"9" * 400, b"-" + b"9" * 400, b"1e999", b"\xff\xfe",
    b"\x80", b"\0", b'"\\ud800"', b"null", b"true", b"NaN", b'""', b"[]", b"{}",
    b"a." * 3000 + b"b = 1\n", b"\n" * 9, b"18446744073709551616", b"0.1e-400",
)  # fmt: skip


def changed(content: bytes, seed: int) -> bytes:
    """A document with one to three changes."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    found = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(found) + 1)
        kind = draw.choice(("flip", "cut", "double", "bomb", "bomb", "digit"))
        if kind == "flip" and at < len(found):
            found[at] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del found[at : at + draw.randint(1, 30)]
        elif kind == "double":
            found[at:at] = found[max(0, at - draw.randint(1, 60)) : at]
        elif kind == "bomb":
            found[at : at + draw.randint(0, 4)] = draw.choice(BOMBS)
        else:
            found[at : at + 1] = draw.choice((b"-1", b"0", b"7" * 30, b'"x"'))
    return bytes(found)


def documents_by_kind(count: int) -> dict[str, Counter[str]]:
    """Count the changed documents of each kind that were read, refused, or raised other errors."""
    found: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, (content, read) in documents(folder).items():
            told = found.setdefault(name, Counter())
            for seed in range(count):
                file = folder / "changed"
                file.write_bytes(changed(content, seed))
                try:
                    read(file)
                except (FeedrateError, DamagedError, OtherVersionError):
                    told["refused"] += 1
                except Exception as error:  # noqa: BLE001 - such errors are the bugs to find
                    told[f"{type(error).__name__} (seed {seed})"] += 1
                else:
                    told["read"] += 1
    return found


def report(files: list[dict[str, Any]], kinds: Mapping[str, Counter[str]]) -> str:
    """The results in Markdown."""
    counts = {way: Counter(one[way] for one in files) for way in WAYS}
    by_table: dict[str, Counter[str]] = {name: Counter() for name in tables()}
    for one in files:
        by_table[one["table"]].update(["files", *(way for way in WAYS if one[way] in PASSED)])
    how = (
        f"`python -m benchmarks.damage`: {len(files):,} damaged files (a bit, a byte, 16 zeros, 8 "
        "bytes moved, or up to 63 bytes cut out; two thirds in the pages, one third in the footer; "
        "fixed seeds), each loaded between two good ones, and compared with pandas."
    )
    parts = [
        "# Damaged files and documents",
        how,
        _table(
            ["outcome", *WAYS],
            [[what, *(counts[way][what] for way in WAYS)] for what in OUTCOMES],
        ),
        "Accepted though pandas refuses, by table:",
        _table(
            ["table", "files", *WAYS],
            [[name, *(told[what] for what in ("files", *WAYS))] for name, told in by_table.items()],
        ),
        "Changed documents, with one to three changes each:",
        _table(
            ["document", "changed", "read", "refused", "any other error"],
            [
                [name, all_, told["read"], told["refused"], all_ - told["read"] - told["refused"]]
                for name, told in kinds.items()
                for all_ in [told.total()]
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def unwanted(files: list[dict[str, Any]], kinds: Mapping[str, Counter[str]]) -> Iterator[str]:
    """Outcomes that must not occur; polars may accept damage where it decodes by default."""
    for one in files:
        for way, options in WAYS.items():
            by_default = one[way] in PASSED and options == {"num_workers": 2}
            if one[way] not in (EQUAL, REFUSED) and not by_default:
                yield f"file {one['seed']} ({one['table']}), {way}: {one[way]}"
    for name, told in kinds.items():
        for what, count in told.items():
            if what not in ("read", "refused"):
                yield f"{name}: {what}, {count} times"


def main() -> int:
    """Measure, write the report, and return 1 if there is an unwanted outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5000, help="damaged files")
    parser.add_argument("--documents", type=int, default=2000, help="of each kind")
    parser.add_argument("--range", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, default=REPORT, help="where to write the results")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    if options.range:
        load_range(*options.range)
        return 0
    files, kinds = files_by_way(options.files), documents_by_kind(options.documents)
    options.report.write_text(report(files, kinds), encoding="utf-8")
    tell(options.report.read_text(encoding="utf-8"))
    wrong = list(unwanted(files, kinds))
    tell("\n".join(wrong[:SHOWN]))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
