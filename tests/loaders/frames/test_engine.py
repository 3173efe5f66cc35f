"""Polars decodes where it may, Arrow everywhere else, and neither takes one file for another."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders import OptimizedHistoricalDataLoader, ParquetStorage
from feedrate.loaders.base.errors import ParquetFileError
from feedrate.loaders.base.machine import effective_cpus
from feedrate.loaders.base.schedule import ThreadScheduler
from feedrate.loaders.caching.segments import Segment
from feedrate.loaders.frames import engine, parts, pieces, planning
from feedrate.loaders.frames.engine import CannotDecodeError, decode_with_arrow, decode_with_polars
from feedrate.loaders.frames.reader import FrameReader
from feedrate.loaders.parquet import footers, page_checks
from feedrate.loaders.parquet.footers import Footers
from feedrate.loaders.parquet.layout import Layouts
from feedrate.loaders.parquet.original import read_frame

DECODERS = [decode_with_polars, decode_with_arrow]
PATIENCE_S = 60  # this only ends a failing test


@pytest.fixture(autouse=True)
def _little_is_enough(monkeypatch):
    monkeypatch.setattr(engine, "POLARS_FROM_BYTES", 0)
    monkeypatch.setattr(engine, "IMPORT_S", 0)


@pytest.fixture
def decoded(monkeypatch):
    """Who decoded how many files, in the order in which they were done."""
    done = []

    def noting(name, real):
        def note(files, layout):
            pieces = real(files, layout)
            done.append((name, len(files)))
            return pieces

        monkeypatch.setattr(parts, real.__name__, note)

    noting("polars", decode_with_polars)
    noting("arrow", decode_with_arrow)
    return done


def described(paths, columns=None):
    reader = Footers()
    footers = [reader.read(path) for path in paths]
    return footers, Layouts().of(footers[0].schema, columns)


def made(makers):
    """Decoded columns: numbers in one array each."""
    return [
        np.concatenate(piece) if isinstance(piece, list) else piece
        for piece in (make() for make in makers)
    ]


def plain(piece):
    return piece.tolist() if isinstance(piece, np.ndarray) else piece.to_pylist()


@pytest.mark.parametrize("decode", DECODERS)
def test_files_are_decoded_one_after_the_other_and_columns_in_the_wanted_order(tmp_path, decode):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(3)]
    for number, path in enumerate(paths):
        words = [None, "x" * number]
        pq.write_table(pa.table({"a": [number, 7], "b": words, "c": [None, 0.5]}), path)
    footers, layout = described(paths, ["c", "b", "a"])
    c, b, a = made(decode(footers, layout))
    assert a.dtype == np.int64
    assert a.tolist() == [0, 7, 1, 7, 2, 7]
    assert pa.types.is_large_string(b.type)
    assert b.to_pylist() == [None, "", None, "x", None, "xx"]
    assert c.dtype == np.float64
    np.testing.assert_array_equal(c, [np.nan, 0.5] * 3)


@pytest.mark.parametrize("columns", [None, ["a"], ["c"], ["c", "b"], ["b", "c", "a"]])
@pytest.mark.parametrize("decode", DECODERS)
def test_any_choice_of_columns_is_decoded(tmp_path, decode, columns):
    path = str(tmp_path / "file.parquet")
    data = {"a": [1, 2], "b": ["x", None], "c": np.float32([0.5, 1.5])}
    pq.write_table(pa.table(data), path)
    wanted = list(data) if columns is None else columns
    found = made(decode(*described([path, path], columns)))
    assert [plain(piece) for piece in found] == [list(data[name]) * 2 for name in wanted]


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("decode", DECODERS)
def test_gaps_among_floats_are_nan_and_nan_and_infinities_stay(tmp_path, decode, kind):
    path = str(tmp_path / "file.parquet")
    values = [None, 0.5, np.nan, -np.inf, -0.0, None]
    pq.write_table(pa.table({"a": pa.array(values, kind)}), path)
    (piece,) = made(decode(*described([path])))
    assert piece.dtype == kind
    np.testing.assert_array_equal(piece, [np.nan, 0.5, np.nan, -np.inf, -0.0, np.nan])
    assert np.signbit(piece[4])


@pytest.mark.parametrize("decode", DECODERS)
def test_numbers_with_nulls_come_as_arrow_has_them(tmp_path, decode):
    path = str(tmp_path / "file.parquet")
    pq.write_table(pa.table({"a": [2**60 + 1, None], "b": [None, True], "c": [1, 2]}), path)
    a, b, c = made(decode(*described([path])))
    assert a.to_pylist() == [2**60 + 1, None]
    assert b.to_pylist() == [None, True]
    assert c.tolist() == [1, 2]


def test_long_chunks_of_text_are_not_joined(tmp_path):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    for path in paths:
        pq.write_table(pa.table({"a": [str(row) for row in range(pieces.LONG_CHUNK)]}), path)
    (column,) = made(decode_with_polars(*described(paths)))
    assert column.num_chunks == 2
    assert column.to_pylist() == [str(row) for row in range(pieces.LONG_CHUNK)] * 2


@pytest.mark.parametrize(
    ("rows", "text", "expected"),
    [(100, False, ["arrow"]), (100, True, ["polars"]), (99, False, ["polars"])],
)
def test_long_files_of_nothing_but_numbers_are_arrows(
    tmp_path, decoded, monkeypatch, assert_same, rows, text, expected
):
    monkeypatch.setattr(engine, "LONG_CHUNK", 100)
    paths = [str(tmp_path / f"{number:02}.parquet") for number in range(20)]
    for number, path in enumerate(paths):
        values = {"a": range(rows), "b": [None, number / 2] * (rows // 2) + [0.5] * (rows % 2)}
        data = {**values, "c": ["x"] * rows} if text else values
        pq.write_table(pa.table(data), path, row_group_size=30)
    got = FrameReader(ThreadScheduler(2)).load(paths)
    assert list(dict.fromkeys(name for name, _ in decoded)) == expected
    assert_same(got, read_frame(paths))
    # Long files go one by one, so that Arrow decodes each into the memory of the one before.
    # Few bytes are one part for polars, which has threads of its own.
    assert {count for _, count in decoded} == ({1} if expected == ["arrow"] else {20})


def test_a_long_file_with_gaps_that_its_dtype_lacks_is_decoded_as_the_others(
    tmp_path, decoded, monkeypatch, assert_same
):
    monkeypatch.setattr(engine, "LONG_CHUNK", 100)
    paths = [str(tmp_path / f"{number:02}.parquet") for number in range(12)]
    for number, path in enumerate(paths):
        gap = None if number == 5 else 2**60 + 1
        pq.write_table(pa.table({"a": [gap, *range(150)], "b": [True, *[False] * 150]}), path)
    assert_same(FrameReader(ThreadScheduler(2)).load(paths), read_frame(paths))
    assert {name for name, _ in decoded} == {"arrow"}


def test_polars_decodes_for_two_workers_or_more_and_not_too_little(files, decoded, monkeypatch):
    for workers, expected in ((0, {"arrow"}), (1, {"arrow"}), (2, {"polars"}), (3, {"polars"})):
        decoded.clear()
        assert len(FrameReader(ThreadScheduler(workers)).load(files)) == 300
        assert {name for name, _ in decoded} == expected
        assert sum(count for _, count in decoded) == 3
    decoded.clear()
    monkeypatch.setattr(engine, "POLARS_FROM_BYTES", sum(map(os.path.getsize, files)) + 1)
    FrameReader(ThreadScheduler(2)).load(files)
    assert {name for name, _ in decoded} == {"arrow"}


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"a": pa.array([0], pa.timestamp("ns"))}),
        pa.table({"a": [b"x"]}),
        pa.table({"a": pa.array(["x"]).dictionary_encode()}),
        pa.table({"a": pa.array([0], pa.time32("ms"))}),
        pa.table({"a": pa.nulls(1)}),
    ],
    ids=["INT96", "binary", "dictionary", "time", "null"],
)
def test_what_polars_would_decode_otherwise_is_left_to_arrow(table, tmp_path, decoded, assert_same):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    for path in paths:
        pq.write_table(table, path, use_deprecated_int96_timestamps=True)
    assert_same(FrameReader(ThreadScheduler(2)).load(paths), read_frame(paths))
    assert {name for name, _ in decoded} == {"arrow"}


def test_where_polars_fails_arrow_decodes(files, decoded, monkeypatch):
    def fail(*_):
        raise CannotDecodeError

    monkeypatch.setattr(parts, "decode_with_polars", fail)
    assert FrameReader(ThreadScheduler(2)).load(files)["a"].tolist() == list(range(300))
    assert decoded == [("arrow", 1)] * 3


def test_errors_of_polars_are_no_errors_of_the_load(files, decoded, monkeypatch):
    pl = engine.import_polars()
    for error in (pl.exceptions.ComputeError("no"), pl.exceptions.PanicException("no"), OSError()):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(pl, "scan_parquet", fail)
        assert len(FrameReader(ThreadScheduler(2)).load(files)) == 300
    assert {name for name, _ in decoded} == {"arrow"}


def test_large_files_are_not_held_in_memory_whole(files, decoded, monkeypatch):
    monkeypatch.setattr(engine, "WHOLE_BYTES", 10)
    monkeypatch.setattr(engine, "Held", None)
    assert FrameReader(ThreadScheduler(2)).load(files)["a"].tolist() == list(range(300))
    assert {name for name, _ in decoded} == {"polars"}


@pytest.fixture
def between(monkeypatch):
    """A function that has something done to files after their footers were read."""

    def arrange(change):
        def read(self, path, real=Footers.read, **options):
            footer = real(self, path, **options)
            change(path)
            return footer

        monkeypatch.setattr(Footers, "read", read)

    return arrange


REPLACEMENTS = {
    "fewer rows": pa.table({"a": [1]}),
    "more rows": pa.table({"a": range(1000)}),
    "as many rows": pa.table({"a": range(7, 107)}),
    "another column": pa.table({"b": range(100)}),
    "text": pa.table({"a": ["x"] * 100}),
    "floats": pa.table({"a": [0.5] * 100}),
    "lists": pa.table({"a": [[1]] * 100}),
    "nothing": pa.table({}),
}


@pytest.mark.filterwarnings("ignore::feedrate.loaders.base.errors.FeedrateWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("name", REPLACEMENTS)
def test_a_file_that_is_replaced_meanwhile_is_read_as_it_is_now(
    files, between, workers, held, name, monkeypatch, assert_same
):
    monkeypatch.setattr(footers, "SMALL_BYTES", 0)
    if not held:
        monkeypatch.setattr(engine, "WHOLE_BYTES", 0)

    def replace(path):
        if path == files[1]:
            pq.write_table(REPLACEMENTS[name], path)

    between(replace)
    frame = FrameReader(ThreadScheduler(workers)).load(files)
    assert_same(frame, read_frame(files))
    assert len(frame) == 200 + REPLACEMENTS[name].num_rows


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"PAR1")])
def test_a_small_file_is_as_it_was_when_its_footer_was_read(
    files, between, workers, change, assert_same
):
    expected = read_frame(files)
    between(lambda path: change(Path(path)) if path == files[1] else None)
    assert_same(FrameReader(ThreadScheduler(workers)).load(files), expected)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("held", [True, False])
def test_a_file_that_is_deleted_meanwhile_is_an_error_that_says_so(
    files, between, workers, held, monkeypatch
):
    monkeypatch.setattr(footers, "SMALL_BYTES", 0)
    if not held:
        monkeypatch.setattr(engine, "WHOLE_BYTES", 0)
    between(lambda path: Path(path).unlink() if path == files[2] else None)
    with pytest.raises(ParquetFileError, match=r"2\.parquet: the file does not exist"):
        FrameReader(ThreadScheduler(workers)).load(files)


@pytest.mark.parametrize("workers", [0, 2])
def test_of_many_files_the_damaged_one_is_named_and_left_out(tmp_path, workers, assert_same):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(40)]
    for number, path in enumerate(paths):
        table = pa.table({"a": range(number, number + 50), "b": ["x"] * 50})
        pq.write_table(table, path, compression="none", use_dictionary=False)
    spoiled = paths[3], paths[4], paths[37]
    for path in spoiled:
        content = bytearray(Path(path).read_bytes())
        content[4:60] = b"\xff" * 56
        Path(path).write_bytes(content)
    reader = FrameReader(ThreadScheduler(workers), on_error="skip")
    good = [path for path in paths if path not in spoiled]
    assert_same(reader.load(paths), read_frame(good))
    assert [error.path for error in reader.skipped] == list(spoiled)
    with pytest.raises(ParquetFileError, match=r"(3|4|37)\.parquet"):
        FrameReader(ThreadScheduler(workers)).load(paths)


def run(code, *arguments, **environment):
    known = {name: value for name, value in os.environ.items() if name != "POLARS_MAX_THREADS"}
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=known | environment,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


THREADS = """
    import os, sys
    from feedrate.loaders.frames.engine import import_polars
    assert "polars" not in sys.modules
    before = os.environ.get("POLARS_MAX_THREADS")
    print(import_polars().thread_pool_size())
    assert os.environ.get("POLARS_MAX_THREADS") == before
    import polars
    assert import_polars() is polars
"""


def test_polars_has_a_thread_for_each_cpu_and_the_environment_stays_as_it_was():
    assert run(THREADS) == [str(effective_cpus())]


def test_polars_has_as_many_threads_as_the_user_says():
    assert run(THREADS, POLARS_MAX_THREADS="3") == ["3"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="CPUs cannot be chosen here")
def test_polars_has_no_more_threads_than_the_process_may_use_cpus():
    one = "import os\nos.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    assert run(one + textwrap.dedent(THREADS)) == ["1"]


FORK = """
    import os, sys
    from feedrate.loaders import OptimizedHistoricalDataLoader, ParquetStorage
    from feedrate.loaders.frames import engine, parts
    from feedrate.loaders.frames.reader import FrameReader
    from feedrate.loaders.base.schedule import ThreadScheduler

    engine.POLARS_FROM_BYTES = engine.IMPORT_S = 0
    used = []

    def note(files, layout):
        used.append("polars")
        return engine.decode_with_polars(files, layout)

    parts.decode_with_polars = note

    def load():
        used.clear()
        frame = FrameReader(ThreadScheduler(2)).load(sys.argv[2:])
        assert frame["a"].tolist() == list(range(300))
        return used[0] if used else "arrow"

    def fork(work):
        child = os.fork()
        if not child:
            print(work(), flush=True)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    if sys.argv[1] == "before":
        print(load(), flush=True)
    fork(lambda: (load(), fork(load))[0])
    print(load(), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize(
    ("when", "expected"),
    [
        # In a child of a process that has it, and in that one's child, its threads are gone.
        ("before", ["polars", "arrow", "arrow", "polars"]),
        # A child that imports it has its own, which the child's child has not.
        ("after", ["arrow", "polars", "polars"]),
    ],
)
def test_polars_does_not_decode_after_a_fork(files, when, expected):
    assert run(FORK, when, *files) == expected


def test_polars_is_imported_once_loads_without_it_have_cost_as_much(files, monkeypatch):
    monkeypatch.setattr(engine, "IMPORT_S", 0.085)
    monkeypatch.setattr(engine, "_missed_s", 0.0)
    monkeypatch.delitem(sys.modules, "polars", raising=False)
    size = Footers().read(str(files[0])).size
    loads = 1
    while not engine.polars_may_run(2, 31, 31 * size, 31 * 6):
        loads += 1
    assert loads * 31 * 6 * engine.SAVED_S_PER_CHUNK <= 0.085
    monkeypatch.setattr(engine, "_missed_s", 0.0)
    assert engine.polars_may_run(2, 3100, 3100 * size, 3100 * 20)  # one such load is worth it
    assert 20 < loads < 100


def test_the_first_load_of_a_month_of_small_files_imports_no_polars(tmp_path):
    frame = pd.DataFrame({"x": np.arange(300.0), "s": [f"player {n}" for n in range(300)]})
    storage = ParquetStorage(tmp_path)
    for day in range(1, 32):
        storage.save(frame, "games", f"202501{day:02}")
    code = """
        import sys
        from feedrate.loaders import OptimizedHistoricalDataLoader, ParquetStorage
        from feedrate.loaders.frames import engine
        engine.POLARS_FROM_BYTES = 0
        loader = OptimizedHistoricalDataLoader(ParquetStorage(sys.argv[1]), "pytorch", 2)
        assert len(loader.load_files(loader.storage.files("games"))) == 31 * 300
        print("polars" in sys.modules)
    """
    assert run(code, str(tmp_path)) == ["False"]


def test_importing_the_loaders_imports_no_polars():
    code = "import sys, feedrate.loaders.frames.reader; print('polars' in sys.modules)"
    assert run(code) == ["False"]


def test_text_that_is_a_view_stays_one_and_categories_their_own(tmp_path, load, assert_same):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    for number, path in enumerate(paths):
        views = pa.array(["x", None, "far more than twelve bytes"], pa.string_view())
        days = pd.Categorical([str(number), "x", None])
        pq.write_table(pa.table({"a": views, "b": pa.array(days)}), path)
    for workers in (0, 2):
        assert_same(load(None, paths, workers=workers), read_frame(paths))
        assert_same(load(None, paths, ["a"], workers=workers), read_frame(paths, ["a"]))


def test_arrow_decodes_everything_if_asked_and_refuses_every_page_that_pandas_refuses(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(parts, "decode_with_polars", lambda *_: pytest.fail("polars decodes"))
    random = np.random.default_rng(5)
    rows = 6000
    gaps = [None if row % 50 == 0 else int(random.integers(1000)) for row in range(rows)]
    text = [f"u{value}" for value in random.integers(0, 1 << 60, rows)]
    files = [tmp_path / f"{name}.parquet" for name in "abc"]
    for file in files:
        pq.write_table(pa.table({"i": gaps, "u": text}), file, compression="none")
    content = files[1].read_bytes()
    storage = ParquetStorage(tmp_path)
    refused = 0
    for at in random.integers(4, 12_000, 120):
        changed = bytearray(content)
        changed[at] ^= 1 << int(random.integers(8))
        files[1].write_bytes(changed)
        loader = OptimizedHistoricalDataLoader(
            storage, "pytorch", 2, enable_cache="none", decoder="arrow", profile=None
        )
        try:
            expected = read_frame(files)
        except ParquetFileError:
            refused += 1
            with pytest.raises(ParquetFileError, match=r"b\.parquet"):
                loader.load_files(files)
        else:
            pd.testing.assert_frame_equal(loader.load_files(files), expected)
    assert refused


def test_what_polars_decoded_is_not_found_where_arrow_shall_decode(tmp_path, monkeypatch):
    monkeypatch.setenv("FEEDRATE_HOME", str(tmp_path / "home"))
    pd.DataFrame({"a": [1, 2]}).to_parquet(tmp_path / "a.parquet")
    files = [tmp_path / "a.parquet"]
    for decoder, hits in (("auto", 0), ("arrow", 0), ("auto", 1), ("arrow", 1)):
        loader = OptimizedHistoricalDataLoader(
            ParquetStorage(tmp_path), "pytorch", 2, enable_cache="disk", decoder=decoder,
            profile=None,
        )  # fmt: skip
        assert loader.load_files(files)["a"].tolist() == [1, 2]
        assert loader.stats()["cache_hits"] == hits


def with_gaps(path, rows=3000):
    values = [None if number % 50 == 0 else number % 900 for number in range(rows)]
    pq.write_table(
        pa.table({"i": values, "s": [f"s{n}" for n in range(rows)]}), path, compression="none"
    )
    return path


def test_statistics_that_a_writer_got_wrong_cost_time_and_no_rows(tmp_path, decoded):
    path = with_gaps(tmp_path / "a.parquet")
    data, nulls = path.read_bytes(), bytes([0x16, 120])  # 60 of them, zigzag
    footer = int.from_bytes(data[-8:-4], "little") + 8
    assert nulls in data[-footer:]
    path.write_bytes(data[:-footer] + data[-footer:].replace(nulls, bytes([0x16, 122])))
    found = FrameReader(ThreadScheduler(2)).load([path])
    pd.testing.assert_frame_equal(found, pd.read_parquet(path))
    assert [name for name, _ in decoded] == ["arrow"]


def test_damage_to_levels_is_an_error_for_any_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(page_checks, "LEVELS_FROM_BYTES", 0)
    files = [with_gaps(tmp_path / f"{name}.parquet") for name in "abc"]
    at = pq.ParquetFile(files[1]).metadata.row_group(0).column(0).data_page_offset
    data, refused = files[1].read_bytes(), 0
    for place in range(at, at + 120):
        files[1].write_bytes(bytes([*data[:place], data[place] ^ 2, *data[place + 1 :]]))
        try:
            pd.read_parquet(files[1])
        except (OSError, ValueError):
            refused += 1
            with pytest.raises(ParquetFileError, match=r"b\.parquet"):
                FrameReader(ThreadScheduler(2)).load(files)
    assert refused > 30


@pytest.fixture
def one_long_file(tmp_path, monkeypatch):
    """A file of several row groups, long enough for several threads."""
    monkeypatch.setattr(planning, "DIVIDED_ROWS", 1000)
    monkeypatch.setattr(pieces, "LONG_CHUNK", 100)

    def write(**columns):
        path = str(tmp_path / "long.parquet")
        pq.write_table(pa.table(columns), path, row_group_size=300)
        return path

    return write


LONG = {
    "numbers": {
        "n": range(1000), "x": np.arange(1000) / 7, "when": pa.array(range(1000), "date32"),
    },
    "text": {"s": [f"text {row}" for row in range(1000)], "n": range(1000)},
    "gaps": {
        "n": [None, *range(999)], "x": [None, *map(float, range(999))], "s": [None] * 1000,
        "b": [None, *[True, False, False] * 333],
    },
    "categories": {
        "c": pa.array([f"c{row % 7}" for row in range(1000)]).dictionary_encode(), "n": range(1000),
    },
    "lists, structs, times": {
        "l": [[row] * (row % 3) for row in range(1000)],
        "o": [{"x": row, "y": "y"} for row in range(1000)], "n": range(1000),
        "t": pa.array(range(1000), pa.timestamp("us", "UTC")),
    },
}  # fmt: skip


@pytest.fixture
def threads_of_writes(monkeypatch):
    """How many threads each part was written by."""
    asked, write = [], Segment.write

    def noted(segment, start, stop, made, threads=1):
        asked.append(threads)
        write(segment, start, stop, made, threads)

    monkeypatch.setattr(Segment, "write", noted)
    return asked


@pytest.mark.parametrize("columns", [None, ["n"]])
@pytest.mark.parametrize("decoder", ["auto", "arrow"])
@pytest.mark.parametrize("name", LONG)
def test_threads_share_the_columns_of_one_long_part(
    one_long_file, threads_of_writes, name, decoder, columns, assert_same
):
    path = one_long_file(**LONG[name])
    found = FrameReader(ThreadScheduler(3), decoder=decoder).load([path], columns)
    assert_same(found, read_frame([path], columns))
    assert threads_of_writes[0] == 3


@pytest.mark.filterwarnings("ignore::feedrate.loaders.base.errors.FeedrateWarning")
@pytest.mark.parametrize("others", ["another layout", "one that pandas reads"])
def test_threads_share_nothing_where_there_are_other_parts(
    one_long_file, threads_of_writes, tmp_path, others, assert_same
):
    paths = [one_long_file(**LONG["text"]), str(tmp_path / "other.parquet")]
    frame = pd.DataFrame({"s": ["a"], "n": [1]})
    if others == "another layout":
        frame["s"] = frame["s"].astype("category")
    else:
        frame.index = ["stored"]
    frame.to_parquet(paths[1])
    found = FrameReader(ThreadScheduler(2)).load(paths)
    assert_same(found, read_frame(paths))
    assert set(threads_of_writes) == {1}


def test_a_short_part_is_no_work_for_threads(files, threads_of_writes):
    FrameReader(ThreadScheduler(2)).load(files)
    assert set(threads_of_writes) == {1}


@pytest.mark.parametrize("decoder", ["auto", "arrow"])
@pytest.mark.parametrize("rows", [1, 999, 1000, 2000])
def test_a_long_file_that_is_replaced_meanwhile_is_read_as_it_is_now(
    one_long_file, between, rows, decoder, monkeypatch, assert_same
):
    monkeypatch.setattr(footers, "SMALL_BYTES", 0)
    path = one_long_file(**LONG["numbers"])
    other = pa.table({"n": range(rows), "x": [0.5] * rows, "when": pa.array(range(rows), "date32")})
    between(lambda _: pq.write_table(other, path))
    found = FrameReader(ThreadScheduler(2), decoder=decoder).load([path])
    assert_same(found, read_frame([path]))


@pytest.mark.parametrize("decoder", ["auto", "arrow"])
def test_damage_to_a_column_of_a_long_file_is_its_error(one_long_file, decoder):
    path = one_long_file(**LONG["text"])
    at = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    content = bytearray(Path(path).read_bytes())
    content[at : at + 30] = b"\xff" * 30
    Path(path).write_bytes(content)
    with pytest.raises(ParquetFileError, match=r"long\.parquet"):
        FrameReader(ThreadScheduler(2), decoder=decoder).load([path])
    reader = FrameReader(ThreadScheduler(2), decoder=decoder, on_error="skip")
    good = str(Path(path).with_name("good.parquet"))
    pq.write_table(pa.table(LONG["text"]), good)
    assert reader.load([path, good])["n"].tolist() == list(range(1000))
