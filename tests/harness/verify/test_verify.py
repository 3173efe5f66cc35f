"""A loader that is wrong is found, with its rows; one that is right passes."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feedrate.harness import verify_loader
from feedrate.harness.run.forks import Launcher
from feedrate.harness.trial.protocol import Imports
from feedrate.harness.verify import group
from feedrate.loaders.base.errors import InputError
from feedrate.loaders.base.machine import is_installed

from ...backends import unregister

HERE = Path(__file__).parent
ROWS = 1000
IMPORTS = Imports(modules=("torch",) if is_installed("torch") else ())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Five daily files of 200 rows."""
    folder = tmp_path_factory.mktemp("verified") / "prices"
    folder.mkdir()
    chance = np.random.default_rng(0)
    for day in range(5):
        frame = pd.DataFrame(
            {
                "open": chance.random(ROWS // 5),
                "volume": chance.integers(0, 1000, ROWS // 5),
                "close": [None, *chance.random(ROWS // 5 - 1)],
            }
        )
        frame.to_parquet(folder / f"prices_2025010{day + 1}.parquet")
    return folder


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The folder of the planted loaders, and one server for all: importing torch takes seconds."""
    folder = tmp_path_factory.mktemp("planted")
    shutil.copy(HERE / "planted.py", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        launcher = Launcher(per_server=group.MANY)
        launcher.why_not_forked(IMPORTS)  # starts it here
    yield folder, launcher
    launcher.close()


@pytest.fixture
def shared(planted, monkeypatch):
    """All ranks are forks of one server, which is in the folder of the planted loaders."""
    folder, launcher = planted
    monkeypatch.chdir(folder)
    monkeypatch.setattr(group, "imports_of", lambda *_: IMPORTS)

    def share(groups):
        groups._launcher = launcher

    monkeypatch.setattr(group.Groups, "__post_init__", share)
    monkeypatch.setattr(group.Groups, "close", lambda _: None)


@pytest.fixture
def run(data, shared):  # noqa: ARG001 - it prepares
    """Verify a planted loader."""

    def run(name, **options):
        usual = {"target": "close", "batch_size": 64, "ranks": [1, 2], "timeout": 20.0}
        found = verify_loader(data, loader=name, **{**usual, **options})
        unregister(name)
        return found

    return run


def kinds(found):
    return {one.kind for one in found.faults}


@pytest.mark.parametrize(
    ("loader", "kind", "told"),
    [
        ("loses", "lost", "2 rows lost: prices_2025010"),
        ("repeats", "repeated", "1 row repeated: prices_2025010"),
        ("changes", "other-values", "open is "),
        ("other_order", "other-order", "another order than before, from row 0"),
        ("unequal_steps", "unequal-steps", "the ranks take 10, 6 steps"),
        ("not_shuffled", "not-shuffled", "in the files' order though shuffling is on"),
        ("weak_shuffle", "weak-shuffle", "moves rows by 0."),
        ("repeated_order", "repeated-order", "repeats the order of the one before"),
        ("not_sharded", "not-sharded", "each of 2 ranks delivers all 1,000 rows"),
        ("sharded_twice", "sharded-twice", "divided among them twice"),
        ("reuses_memory", "changed-batch", "changed after delivery"),
        ("raises", "error", "rank 1: RuntimeError: no network today"),
        ("crashes", "crash", "rank 1: exit code 7"),
        ("endless", "error", "an epoch delivers more than 3 times the rows of the files"),
    ],
)
def test_a_fault_is_found_and_no_other(run, loader, kind, told):
    found = run(f"planted:{loader}")
    assert kinds(found) == {kind}
    assert any(told in one.text for one in found.faults), found.faults
    assert not found.passed
    assert str(found).startswith(f"FAIL: planted:{loader}")


@pytest.mark.parametrize(
    ("loader", "kind", "where"),
    [
        ("resume_repeats", "repeated", "resumed after half an epoch"),
        ("resume_loses", "lost", "resumed after half an epoch"),
        ("loses_at_the_end", "lost", "resumed after an epoch"),
    ],
)
def test_a_fault_of_resuming_is_found_where_it_is(run, loader, kind, where):
    assert run(f"planted:{loader}").passed
    found = run(f"planted:{loader}", resume=True, ranks=[2])
    assert {one.kind for one in found.faults if where in one.situation} == {kind}
    assert all("resumed" in one.situation for one in found.faults)


def test_a_rank_that_hangs_is_named_and_ended(run):
    found = run("planted:hangs", timeout=1.5)
    (fault,) = found.faults
    assert (fault.kind, fault.situation) == ("hang", "2 ranks")
    assert "rank 1: no answer within 1.5 s" in fault.text
    assert "planted.py" in fault.text


@pytest.mark.parametrize("loader", ["right", "generator", "by_name"])
def test_a_right_loader_passes(run, loader):
    found = run(f"planted:{loader}")
    assert found.passed, found.faults
    assert found.rows == ROWS
    assert len(found.ran) == 5
    assert not found.findings


def test_a_right_loader_resumes_on_as_many_ranks_and_is_wrong_on_others(run):
    found = run("planted:right", resume=True)
    assert {one.situation for one in found.faults} == {
        "2 ranks, resumed after half an epoch of 1 rank",
        "1 rank, resumed after half an epoch of 2 ranks",
    }


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("job", ["batches", "stream"])
def test_the_pytorch_loader_passes_in_every_situation(data, job):
    pytest.importorskip("torch")
    told = []
    found = verify_loader(
        data, target="close", job=job, ranks=[1, 2, 3], resume=True, batch_size=32, tell=told.append
    )
    assert found.passed, found.faults
    assert len(found.ran) == len(told) == 16
    notes = {(one.kind, one.text) for one in found.findings}
    assert {kind for kind, _ in notes} == {"left-out"}
    assert ("left-out", "1 row left out so that the ranks take equal steps") in notes


@pytest.mark.slow
def test_the_tensorflow_loader_passes(data):
    pytest.importorskip("tensorflow")
    found = verify_loader(data, target="close", job="stream", loader="tensorflow", batch_size=32)
    assert found.passed, found.faults


@pytest.mark.parametrize("wrapper", ["accelerate", "lightning"])
@pytest.mark.slow
def test_the_pytorch_loader_passes_in_wrappers(data, wrapper):
    pytest.importorskip(group.PACKAGES[wrapper])
    # Lightning takes four seconds to import in each process; test_sharding.py has several ranks.
    is_slow = wrapper == "lightning"
    found = verify_loader(
        data, target="close", wrapper=wrapper, resume=True, batch_size=64, shuffle=not is_slow,
        ranks=[1] if is_slow else [2],
    )  # fmt: skip
    assert found.passed, found.faults
    assert all(one.kind in ("padding", "left-out") for one in found.findings)


@pytest.mark.usefixtures("shared")
def test_rows_that_are_left_out_fail_if_that_is_asked_for(data):
    pytest.importorskip("torch")
    options = {"target": "close", "ranks": [3], "epochs": 1, "batch_size": 32}
    assert verify_loader(data, **options).passed
    assert kinds(verify_loader(data, **options, strict=True)) == {"lost"}
    assert verify_loader(data, **options, drop_last=True).passed


@pytest.mark.usefixtures("shared")
def test_rows_that_are_equal_are_a_note(tmp_path):
    pytest.importorskip("torch")
    frame = pd.DataFrame({"x": [1, 1, 2, 3] * 10, "y": [0, 0, 0, 1] * 10})
    frame.to_parquet(tmp_path / "a.parquet")
    found = verify_loader(tmp_path, ranks=[1], batch_size=8)
    assert found.passed
    assert found.findings[0].text.startswith("37 rows of 40 are equal to another one")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ranks": []}, "ranks is empty"),
        ({"ranks": [0]}, "ranks is 0"),
        ({"ranks": [1001]}, "ranks is 1001"),
        ({"epochs": 0}, "epochs is 0"),
        ({"wrapper": "horovod"}, "unknown wrapper 'horovod'"),
        ({"job": "frame"}, "unknown job 'frame'"),
        ({"loader": "pytroch"}, "unknown loader 'pytroch'"),
        ({"loader": "planted:no_such"}, "unknown name 'no_such'"),
        ({"files": 9}, "files is 9"),
        ({"timeout": 0.0}, "timeout is 0 s"),
        ({"loader": "planted:text"}, "not matrices of numbers"),
        ({"loader": "planted:nothing"}, "returned None; it must return an iterable"),
        ({"loader": "planted:generator", "resume": True}, "without state_dict"),
        ({"loader": "planted:right", "wrapper": "accelerate"}, "wraps torch's DataLoader"),
    ],
)
def test_bad_input_is_a_clear_error(run, options, told):
    options = dict(options)
    with pytest.raises(InputError, match=told):
        run(
            **{
                "name": "planted:right",
                **{("name" if k == "loader" else k): v for k, v in options.items()},
            }
        )


@pytest.mark.usefixtures("shared")
def test_more_ranks_than_rows_is_an_error(tmp_path):
    pytest.importorskip("torch")
    pd.DataFrame({"x": [1.0, 2.0]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="the files have 2 rows and ranks asks for 3"):
        verify_loader(tmp_path, ranks=[3])


def test_an_order_that_nobody_asked_for_is_found_without_shuffling(run):
    found = run("planted:always_shuffled", shuffle=False, ranks=[1], epochs=1)
    assert kinds(found) == {"other-order"}


def test_an_epoch_of_one_step_cannot_be_stopped_within_and_says_so(run):
    found = run("planted:right", resume=True, ranks=[2], batch_size=600)
    assert found.passed, found.faults
    assert "apart from the notes" in str(found)
    assert [one.situation for one in found.findings] == ["2 ranks, resumed after half an epoch"]


def test_a_null_that_stays_is_another_value(run):
    found = run("planted:infinite", ranks=[1], epochs=1)
    assert kinds(found) == {"other-values"}
    assert any("open is inf instead of 0." in one.text for one in found.faults), found.faults


def test_a_loader_that_refuses_its_state_is_a_fault(run):
    found = run("planted:refuses_states", resume=True, ranks=[1])
    assert {one.kind for one in found.faults} == {"error"}
    assert "rank 0: no state of yesterday" in found.faults[0].text
