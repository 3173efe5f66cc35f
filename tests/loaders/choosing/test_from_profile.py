"""A backend's own loader with the settings of a profile."""

import subprocess
import sys

import msgspec
import pytest
from feedrate.loaders import (
    OptimizedHistoricalDataLoader,
    ParquetStorage,
    PyTorchDataLoader,
    TensorFlowDataLoader,
)
from feedrate.loaders.base.errors import DocumentError, FeedrateWarning, InputError
from feedrate.loaders.base.machine import fingerprint, is_installed
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.choosing.profile import Entry, Evidence, Profile
from feedrate.loaders.parquet.dataset import describe

LOADERS = [
    pytest.param(PyTorchDataLoader, marks=pytest.mark.skipif(
        not is_installed("torch"), reason="torch is not installed")),
    pytest.param(TensorFlowDataLoader, marks=pytest.mark.skipif(
        not is_installed("tensorflow"), reason="tensorflow is not installed")),
]  # fmt: skip

EVIDENCE = Evidence(
    strength="weak", why="made up", launches=3, passes=3, total_s=1.0, first_pass_s=0.5, rows=12,
    rows_per_s=36.0, speedup=None, speedup_low=None, speedup_high=None, confidence=None,
    peak_pss_bytes=None,
)  # fmt: skip
CHOSEN = LoaderSettings(
    backend="pytorch", num_workers=3, prefetch=5, cache="none", batch_size=7, shuffle=False
)


@pytest.fixture
def files(storage):
    return storage.files("box_scores")


@pytest.fixture
def profile(files, tmp_path):
    entry = Entry(
        job="batches", data_type="box_scores", files=3, max_files=None, settings=CHOSEN,
        evidence=EVIDENCE,
    )  # fmt: skip
    made = Profile(
        created="now", command="none", machine=fingerprint(),
        datasets=[describe(files, "box_scores")], entries=[entry],
    )  # fmt: skip
    return made.save(tmp_path / "p.json")


@pytest.mark.parametrize("loader", LOADERS)
def test_a_loader_obeys_the_profile_it_is_given(loader, profile, files):
    for found in (loader.from_profile(profile), loader.from_profile(profile, files)):
        assert found.settings.num_workers == 3
        assert found.settings.prefetch == 5
        assert found.settings.batch_size == 7
        assert not found.settings.shuffle


@pytest.mark.parametrize("loader", LOADERS)
def test_a_profile_beside_the_data_is_found_through_the_files(loader, profile, files):
    profile.rename(files[0].parent.parent / "feedrate.profile.json")
    assert loader.from_profile(files=files).settings.num_workers == 3
    with pytest.warns(FeedrateWarning, match="Pass files="):
        assert loader.from_profile().settings.num_workers == LoaderSettings().num_workers


@pytest.mark.parametrize("loader", LOADERS)
def test_a_profile_of_other_columns_is_not_obeyed_and_says_so(loader, profile, storage):
    storage.save(storage.load("box_scores").rename(columns={"points": "goals"}), "goals", "1")
    goals = storage.files("goals")
    with pytest.warns(FeedrateWarning, match=r"does not hold here"):
        assert loader.from_profile(profile, goals).settings.num_workers != 3


@pytest.mark.parametrize("loader", LOADERS)
def test_a_profile_of_another_machine_is_not_obeyed(loader, profile):
    made = Profile.load(profile)
    machine = msgspec.structs.replace(made.machine, effective_cpus=999)
    msgspec.structs.replace(made, machine=machine).save(profile)
    with pytest.warns(FeedrateWarning, match="999"):
        assert loader.from_profile(profile).settings.num_workers != 3


@pytest.mark.parametrize("loader", LOADERS)
def test_a_profile_that_is_named_and_missing_is_an_error(loader, tmp_path):
    with pytest.raises(DocumentError, match="absent"):
        loader.from_profile(tmp_path / "absent.json")


@pytest.mark.skipif(not is_installed("tensorflow"), reason="tensorflow is not installed")
@pytest.mark.slow
def test_a_process_ends_while_a_tensorflow_stream_reads_ahead(files):
    code = (
        "import sys\n"
        "from feedrate.loaders import TensorFlowDataLoader\n"
        "loader = TensorFlowDataLoader(2, 2)\n"
        "data = loader.create_streaming_dataset(sys.argv[1:] * 200, ['points'], batch_size=1)\n"
        "held = iter(data)\n"
        "next(held)\n"
    )
    command = [sys.executable, "-c", code, *map(str, files)]
    assert subprocess.run(command, timeout=120, check=False).returncode == 0


@pytest.mark.parametrize("make", LOADERS)
def test_a_backends_loader_names_a_job_that_there_is_not(make):
    with pytest.raises(InputError, match=r"unknown job 'batch'; did you mean 'batches'"):
        make.from_profile(None, job="batch")


def test_the_optimized_loader_names_a_job_that_there_is_not(tmp_path):
    loader = OptimizedHistoricalDataLoader(ParquetStorage(tmp_path), "original", profile=None)
    for ask in (loader.settings_for, loader.explain):
        with pytest.raises(InputError, match=r"unknown job 'batch'; did you mean 'batches'"):
            ask("batch")
