"""`feedrate verify` through its entry point: the answer, the exit code, the reports."""

import json
import re
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from feedrate.harness.cli import app as cli
from feedrate.harness.cli import verify_command as command
from feedrate.harness.trial.protocol import RankDone
from feedrate.harness.verify import group
from feedrate.harness.verify.deliveries import Delivered
from feedrate.harness.verify.group import GroupRun

ROWS = 100


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "prices"
    folder.mkdir()
    for day in (1, 2):
        numbers = np.arange(ROWS // 2) + day * 1000.0
        pd.DataFrame({"x": numbers, "y": -numbers}).to_parquet(folder / f"2025010{day}.parquet")
    return folder


@pytest.fixture
def delivered(monkeypatch):
    """What the ranks deliver, without any process: a function of the situation."""

    def deliver(of):
        def run(_, situation, resume=()):
            del resume
            epochs = [of(situation, number) for number in range(situation.epochs)]
            done = [RankDone(kept={}, unknown={}, changed={}) for _ in range(situation.ranks)]
            return GroupRun(epochs, done, [])

        monkeypatch.setattr(group.Groups, "run", run)
        monkeypatch.setattr("feedrate.harness.verify.verb.is_installed", lambda _: True)

    return deliver


def right(situation, number):
    order = np.arange(ROWS)
    if situation.shuffle:
        np.random.default_rng(number).shuffle(order)
    shares = [order[rank :: situation.ranks] for rank in range(situation.ranks)]
    # The files' rows are known by their hashes: classes in the order of these.
    return [Delivered(CLASSES[share], np.array([len(share)])) for share in shares]


def lossy(situation, number):
    ranks = right(situation, number)
    first = ranks[0]
    return [Delivered(first.classes[3:], np.array([len(first.classes) - 3])), *ranks[1:]]


CLASSES = np.arange(ROWS)


@pytest.fixture(autouse=True)
def _classes(data):
    """The class of each row, in the files' order."""
    from feedrate.harness.trial.row_index import RowIndex

    frame = pd.concat(map(pd.read_parquet, sorted(data.iterdir())))
    rows = frame.to_numpy("float32")
    CLASSES[:] = RowIndex.of([rows]).classes(rows)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["feedrate", "verify", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.run()
    return stop.value.code


def test_a_loader_without_faults_is_exit_0(data, delivered, monkeypatch, capsys):
    delivered(right)
    assert run(monkeypatch, data) == 0
    out, progress = capsys.readouterr()
    assert out.startswith("PASS: pytorch delivers each of 100 rows once in 5 situations.")
    assert "2 ranks, same seed again" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "5 of 5: 1 rank, not shuffled: 100 rows in" in progress


def test_faults_are_exit_1_with_the_rows_and_all_reports(
    data, delivered, monkeypatch, capsys, tmp_path
):
    delivered(lossy)
    reports = ["--markdown", tmp_path / "v.md", "--junit", tmp_path / "v.xml"]
    assert run(monkeypatch, data, *reports) == 1
    out = capsys.readouterr().out
    assert out.startswith("FAIL: pytorch: 7 faults in 5 of 5 situations.")
    assert re.search(r"lost: +1 rank, epoch 0 and \d other places?: 3 rows lost:", out), out
    assert "**FAIL: pytorch: 7 faults" in (tmp_path / "v.md").read_text()
    suite = ET.parse(tmp_path / "v.xml").getroot().find("testsuite")  # noqa: S314 - our own
    assert (suite.get("tests"), suite.get("failures")) == ("5", "5")
    assert "3 rows lost" in suite.find("testcase/failure").get("message")


def test_json_has_the_situations_and_the_findings(data, delivered, monkeypatch, capsys):
    delivered(lossy)
    assert run(monkeypatch, data, "--json", "--ranks", "1", "--epochs", "1") == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["passed"]
    assert [one["situation"] for one in found["ran"]] == [
        "1 rank", "1 rank, same seed again", "1 rank, not shuffled",
    ]  # fmt: skip
    assert found["findings"][0]["kind"] == "lost"
    assert found["findings"][0]["count"] == 3
    assert len(found["findings"][0]["rows"]) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--ranks", "two"], "--ranks"),
        (["--ranks", "0"], "ranks is 0"),
        (["--timeout", "soon"], "--timeout"),
        (["--wrapper", "horovod"], "unknown wrapper 'horovod'"),
        (["--loader", "no_such_module:f"], "no_such_module"),
        (["--columns", "z"], "unknown column 'z'"),
        (["--junit", "no/such/folder.xml"], "there is no folder no/such"),
    ],
)
def test_bad_input_is_exit_2(data, monkeypatch, capsys, arguments, told):
    assert run(monkeypatch, data, *arguments) == 2
    assert told in capsys.readouterr().err


def test_the_default_batch_size_is_that_of_the_loaders():
    assert command.DEFAULT_BATCH_SIZE == 32
