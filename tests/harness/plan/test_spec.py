import doctest
import re
import tomllib
from pathlib import Path

import pytest
from feedrate.harness.plan import source, spec_file
from feedrate.harness.plan.spec import (
    Spec,
    default_workers,
    file_counts,
    load_spec,
    make_trial,
    plan,
)
from feedrate.harness.run import row_verifier
from feedrate.harness.system import units
from feedrate.harness.system.units import parse_counts, parse_duration
from feedrate.loaders.base import sizes
from feedrate.loaders.base.errors import DocumentError, InputError
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.base.sizes import parse_size


def test_a_trials_id_depends_on_what_it_measures_and_nothing_else():
    settings = LoaderSettings(backend="pytorch", num_workers=2)
    one, same = make_trial("frame", settings, 10), make_trial("frame", settings, 10)
    assert one.id == same.id
    assert one.id != make_trial("frame", settings, 11).id
    assert one.id != make_trial("batches", settings, 10).id


def test_the_grid_holds_no_combination_that_a_backend_cannot_tell_from_another():
    trials = plan(Spec(backends=["original"], workers=[0, 1, 2], prefetch=[0, 2]), 12)
    assert [trial.files for trial in trials] == [12, 3, 1]
    assert {trial.backend for trial in trials} == {"original"}


def test_without_workers_nothing_is_prefetched_by_threads():
    pytest.importorskip("torch")
    spec = Spec(backends=["pytorch"], workers=[0, 2], prefetch=[0, 2], cache=["none"], files=[4])
    found = {
        (trial.settings.num_workers, trial.settings.prefetch)
        for trial in plan(spec, 4)
        if trial.backend == "pytorch"
    }
    assert found == {(0, 0), (2, 0), (2, 2)}


def test_the_original_is_always_planned():
    pytest.importorskip("torch")
    assert "original" in {trial.backend for trial in plan(Spec(backends=["pytorch"]), 5)}


def test_trials_of_the_most_files_come_first():
    files = [trial.files for trial in plan(Spec(backends=["original"]), 365)]
    assert files == sorted(files, reverse=True)


def test_default_worker_counts_go_past_the_effective_cpus():
    assert default_workers(1) == [0, 1, 2]
    assert default_workers(6) == [0, 1, 2, 4, 8, 12]


def test_default_file_counts_have_three_sizes_up_to_all():
    assert file_counts(None, 365) == [30, 91, 365]
    assert file_counts(None, 1) == [1]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"jobs": ["frames"]}, "frame"),
        ({"backends": ["torch"]}, "pytorch"),
        ({"cache": ["ram"]}, "memory"),
        ({"workers": [-1]}, "-1"),
        ({"files": [0]}, "files"),
        ({"repeats": 0}, "repeats"),
        ({"passes": 0}, "passes"),
        ({"batch_size": [0]}, "batch_size"),
        ({"workers": []}, "workers"),
    ],
)
def test_a_bad_value_is_refused_with_the_value_or_the_choices(fields, names):
    with pytest.raises(InputError, match=names):
        load_spec(None, fields)


def test_flags_win_over_the_spec_file(tmp_path):
    path = tmp_path / "spec.toml"
    path.write_text('workers = [1]\nbudget = "5m"\n')
    spec = load_spec(path, {"workers": [0, 2], "passes": None})
    assert spec.workers == [0, 2]
    assert spec.budget_s == 300
    assert spec.passes == Spec().passes


@pytest.mark.parametrize("text", ["workers = [1", "workers = 'two'", "wrokers = [1]", "cache = 3"])
def test_a_spec_file_that_cannot_be_used_says_why_and_which(tmp_path, text):
    path = tmp_path / "spec.toml"
    path.write_text(text)
    with pytest.raises(DocumentError, match=r"spec\.toml"):
        load_spec(path, {})


def test_a_missing_spec_file_is_named(tmp_path):
    with pytest.raises(DocumentError, match="absent"):
        load_spec(tmp_path / "absent.toml", {})


def test_more_files_than_there_are_is_an_error():
    with pytest.raises(InputError, match="only 5 files"):
        plan(Spec(files=[6], backends=["original"]), 5)


@pytest.mark.parametrize("text", ["", "5 parsecs", "-3s", "0s", "s", "1e3s", "٣s"])
def test_a_duration_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="write it like"):
        parse_duration(text, "--budget")


@pytest.mark.parametrize("text", ["4 GiBs", "many", "-1GiB", "0"])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="write it like"):
        parse_size(text, "--max-memory")


@pytest.mark.parametrize("text", ["", "1,x", "1.5", "-1", ",", "1;2", "²"])
def test_counts_that_are_none_are_refused(text):
    with pytest.raises(InputError, match="whole numbers"):
        parse_counts(text, "--workers")


def test_the_readme_has_every_key_of_a_spec(tmp_path):
    text = (Path(__file__).parents[3] / "docs" / "tuning.md").read_text()
    example = re.search(r"```toml\n(.*?)```", text, re.DOTALL)[1]
    assert set(tomllib.loads(example)) == set(Spec.__struct_fields__)
    path = tmp_path / "grid.toml"
    path.write_text(example.replace('loader = "my_loader:load"', ""))
    spec = load_spec(path, {})
    assert (spec.budget_s, spec.tie, spec.passes) == (600, Spec().tie, Spec().passes)


@pytest.mark.parametrize(
    "module", [row_verifier, source, spec_file, units, sizes], ids=lambda one: one.__name__
)
def test_examples_in_docstrings_hold(module):
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


def test_frames_are_swept_with_one_depth_of_prefetch_unless_others_are_named():
    def depths(job, **wanted):
        spec = Spec(jobs=[job], workers=[2], files=[4], **wanted)
        return {one.settings.prefetch for one in plan(spec, 4) if one.backend == "pytorch"}

    assert depths("frame") == {2}
    assert depths("batches") == depths("stream") == {0, 2}
    assert depths("frame", prefetch=[0, 4]) == {0, 4}


@pytest.mark.parametrize("limit", [1, "31MiB"])
def test_a_memory_limit_that_no_process_keeps_to_is_refused(limit):
    with pytest.raises(InputError, match="less than any process needs; give a size such as 2GiB"):
        Spec(max_memory=limit)
