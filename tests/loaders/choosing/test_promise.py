"""A loader notices when loads stay below what the profile promised, and says so once."""

import logging
import pickle
import time

import msgspec
import pandas as pd
import pytest
from feedrate.loaders import OptimizedHistoricalDataLoader, ParquetStorage
from feedrate.loaders.base.machine import fingerprint
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.choosing.profile import Entry, Evidence, Profile, Rate
from feedrate.loaders.choosing.promise import LATEST, Promise
from feedrate.loaders.parquet.dataset import describe

FILES = 4
ROWS = 40


def rate(rows_per_s):
    return Rate(
        rows_per_s=rows_per_s, low=rows_per_s * 0.95, high=rows_per_s * 1.05,
        lowest=rows_per_s * 0.9, confidence=0.95, launches=6,
    )  # fmt: skip


def entry(rows_per_s=1000.0, job="frame", cache="none", columns=None, files=FILES, **settings):
    evidence = Evidence(
        strength="strong", why="", launches=6, passes=3, total_s=1.0, first_pass_s=0.5, rows=ROWS,
        rows_per_s=rows_per_s, speedup=None, speedup_low=None, speedup_high=None, confidence=None,
        peak_pss_bytes=None, first=rate(rows_per_s), later=rate(10 * rows_per_s), columns=columns,
    )  # fmt: skip
    chosen = {"backend": "pytorch", "num_workers": 1, "prefetch": 0, "cache": cache}
    return Entry(
        job=job, data_type="logs", files=files, max_files=None,
        settings=LoaderSettings(**chosen | settings), evidence=evidence,
    )  # fmt: skip


def promise(rows=1000, **fields):
    made = entry(**fields)
    evidence = msgspec.structs.replace(made.evidence, rows=rows)
    return Promise(msgspec.structs.replace(made, evidence=evidence), "feedrate tune x")


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.WARNING, logger="feedrate.loaders")

    def messages():
        return [record.getMessage() for record in caplog.records]

    return messages


def test_it_is_told_once_when_the_latest_loads_are_all_slower_than_anything_measured(told):
    kept = promise()
    for _ in range(LATEST - 1):
        kept.note(700, 1.0, first=True)
    assert told() == []
    kept.note(700, 1.0, first=True)
    for _ in range(10):
        kept.note(600, 1.0, first=True)
    (message,) = told()
    assert "the frame job ran at 700 rows/s in the latest 5 loads" in message
    assert "measured 1e+03 and never less than 900" in message
    assert message.endswith("Tune again with: feedrate tune x")
    assert kept.figures()["kept"] is False


def test_one_load_that_is_quick_enough_keeps_the_promise(told):
    kept = promise()
    for turn in range(20):
        kept.note(900, 1.0 if turn % LATEST == 0 else 9.0, first=True)
    assert told() == []


def test_a_cached_load_is_held_to_what_cached_passes_gave(told):
    kept = promise()
    for _ in range(LATEST):
        kept.note(2000, 1.0, first=False)  # twice a first pass, a fifth of a later one
    assert len(told()) == 1


def test_who_hardly_waits_is_not_held_up_by_the_loader(told):
    kept = promise(job="batches")
    for _ in range(20):
        kept.note(1000, 100.0, first=False, wait_share=0.1)
    assert told() == []
    assert kept.figures()["wait_share"] == 0.1


@pytest.mark.parametrize(
    ("rows", "alike"), [(1000, True), (500, True), (2000, True), (499, False), (2001, False)]
)
def test_only_loads_of_about_as_many_rows_are_compared(rows, alike):
    kept = promise()
    kept.note(rows, 1.0, first=True)
    assert (kept.figures()["rows_per_s"] is not None) is alike


def test_other_data_types_and_more_columns_are_not_held_to_it():
    kept = promise(columns=["a", "b"])
    assert kept.covers("logs", ["b"])
    assert kept.covers(None, ["a", "b"])
    assert not kept.covers("weather", ["a"])
    assert not kept.covers("logs", ["a", "c"])
    assert not kept.covers("logs", None)
    assert promise().covers("logs", None)


@pytest.mark.parametrize("noted", [(0, 1.0), (10, 0.0)])
def test_what_took_no_time_or_had_no_rows_is_passed_over(noted):
    kept = promise()
    kept.note(*noted, first=True)
    assert kept.figures()["rows_per_s"] is None


def test_a_profile_of_version_1_promises_nothing(told):
    old = entry()
    evidence = msgspec.structs.replace(old.evidence, first=None, later=None)
    kept = Promise(msgspec.structs.replace(old, evidence=evidence), "feedrate tune x")
    for _ in range(LATEST):
        kept.note(1, 100.0, first=True)
    assert told() == []


class TestInALoader:
    @pytest.fixture(autouse=True)
    def _with_torch(self):
        pytest.importorskip("torch")

    @pytest.fixture
    def storage(self, tmp_path):
        made = ParquetStorage(tmp_path / "data")
        for day in range(1, FILES + 1):
            frame = pd.DataFrame({"a": range(10), "b": 1.5, "y": 0})
            made.save(frame, "logs", f"2025010{day}")
        return made

    def loader(self, storage, *entries, **options):
        profile = Profile(
            created="", command="", machine=fingerprint(),
            datasets=[describe(storage.files("logs"), "logs")], entries=list(entries),
        )  # fmt: skip
        return OptimizedHistoricalDataLoader(storage, profile=profile, **options)

    def test_slow_loads_are_told_with_the_command(self, storage, told):
        loader = self.loader(storage, entry(rows_per_s=1e12))
        for _ in range(LATEST + 3):
            loader.load_files(storage.files("logs"))
        (message,) = told()
        assert f"feedrate tune {storage.base_dir}" in message
        figures = loader.stats()["promises"]["frame"][0]
        assert figures["kept"] is False
        assert figures["first_rows_per_s"] == 1e12
        assert 0 < figures["rows_per_s"] < 1e12

    def test_quick_loads_are_not_told(self, storage, told):
        loader = self.loader(storage, entry(rows_per_s=0.001))
        for _ in range(LATEST):
            loader.load_files(storage.files("logs"))
        assert told() == []
        assert loader.stats()["promises"]["frame"][0]["kept"] is True

    def test_loads_from_a_cache_are_held_to_later_passes(self, storage, told):
        # First passes promise too much, later ones (ten times that) far too much.
        loader = self.loader(storage, entry(rows_per_s=1e12, cache="memory"))
        loader.load_files(storage.files("logs"))
        assert loader.stats()["promises"]["frame"][0]["kept"] is True
        for _ in range(LATEST):
            loader.load_files(storage.files("logs"))
        assert len(told()) == 1

    def test_settings_that_were_not_measured_promise_nothing(self, storage):
        for options in ({"num_workers": 2}, {"loader_type": "original"}):
            loader = self.loader(storage, entry(rows_per_s=1e12), **options)
            loader.load_files(storage.files("logs"))
            assert loader.stats()["promises"] == {}

    def test_more_columns_than_were_measured_are_not_compared(self, storage):
        loader = self.loader(storage, entry(rows_per_s=1e12, columns=["a"]))
        loader.load_files(storage.files("logs"))
        assert loader.stats()["promises"] == {}
        loader.load_files(storage.files("logs"), ["a"])
        assert loader.stats()["promises"]["frame"][0]["rows_per_s"] > 0

    def test_a_copy_of_a_loader_goes_on(self, storage):
        loader = self.loader(storage, entry())
        loader.load_files(storage.files("logs"))
        again = pickle.loads(pickle.dumps(loader))  # noqa: S301 - made in this line
        again.load_files(storage.files("logs"))
        assert again.stats()["promises"]["frame"][0]["rows_per_s"] > 0

    def test_epochs_of_batches_are_watched_and_a_slow_consumer_is_none_of_our_business(
        self, storage, told
    ):
        loader = self.loader(storage, entry(job="batches", rows_per_s=1e12, batch_size=8))
        frame = loader.load_files(storage.files("logs"))
        batches = loader.batches(frame, ["a", "b"], "y")
        for _ in range(2):
            for _batch in batches:
                time.sleep(0.002)
        figures = loader.stats()["promises"]["batches"][0]
        assert 0 < figures["rows_per_s"] <= ROWS / (5 * 0.002)  # five batches, each held for 2 ms
        assert figures["wait_share"] < 0.5
        assert figures["kept"] is True
        for _ in range(LATEST):
            assert sum(1 for _batch in batches) == 5
        assert any("the batches job ran at" in message for message in told())

    def test_a_stream_is_made_with_the_profiles_settings_and_its_epochs_are_watched(
        self, storage, told
    ):
        loader = self.loader(storage, entry(job="stream", rows_per_s=1e12, batch_size=8))
        stream = loader.stream(storage.files("logs"), ["a", "b"], "y")
        assert stream.settings == loader.settings_for("stream")
        assert "from the profile" in loader.explain("stream")
        for _ in range(LATEST + 1):
            assert sum(1 for _batch in stream) == 5
        figures = loader.stats()["promises"]["stream"][0]
        assert figures["rows_per_s"] > 0
        assert figures["kept"] is False
        assert any("the stream job ran at" in message for message in told())

    def test_a_stream_with_another_batch_size_promises_nothing(self, storage):
        loader = self.loader(storage, entry(job="stream", rows_per_s=1e12, batch_size=8))
        for _batch in loader.stream(storage.files("logs"), ["a"], "y", batch_size=4):
            pass
        assert loader.stats()["promises"] == {}

    def test_an_epoch_that_was_left_early_is_not_counted(self, storage):
        loader = self.loader(storage, entry(job="batches", batch_size=8))
        batches = loader.batches(loader.load_files(storage.files("logs")), ["a"], "y")
        next(iter(batches))
        assert loader.stats()["promises"]["batches"][0]["rows_per_s"] is None
        assert loader.stats()["promises"]["batches"][0]["kept"] is None
