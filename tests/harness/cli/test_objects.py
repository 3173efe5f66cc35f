"""The commands take URLs, and say within seconds what is wrong with one, without secrets."""

import sys
import time
from functools import partial

import pytest
from feedrate.harness.cli import app as cli
from feedrate.harness.cli import measure_commands
from feedrate.harness.in_process import in_process

QUICK = ["--backends", "original", "--files", "2", "--repeats", "1", "--passes", "1"]


@pytest.fixture
def place(storage, upload):
    return upload(storage)


@pytest.fixture
def feedrate(monkeypatch, capsys):
    """Run the command, trials in this process; its exit code, and all that it printed."""
    for verb in ("tune", "sweep"):
        monkeypatch.setattr(
            measure_commands,
            verb,
            partial(getattr(measure_commands, verb), make_executor=in_process),
        )

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["feedrate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        said = capsys.readouterr()
        return stop.value.code, said.out + said.err

    return call


@pytest.mark.slow
def test_a_profile_of_objects_is_found_shown_checked_and_removed(feedrate, place, tmp_path):
    results = tmp_path / "r.jsonl"
    code, said = feedrate("tune", place, *QUICK, "--budget", "300s", "--results", results)
    assert code == 0, said
    assert "frame: use original" in said
    assert place in feedrate("profile", "list")[1]
    assert "frame" in feedrate("profile", "show", f"{place}/")[1]
    code, said = feedrate("profile", "check", place)
    assert code == 0, said
    assert "object store" in said
    assert feedrate("profile", "remove", place)[0] == 0
    assert "no profile for" in feedrate("profile", "show", place)[1]
    code, said = feedrate("report", results, "--markdown", tmp_path / "r.md")
    assert code == 0, said
    assert "repeated requests" in (tmp_path / "r.md").read_text()


@pytest.mark.slow
def test_a_report_on_files_has_nothing_on_requests(feedrate, storage, tmp_path):
    results = tmp_path / "r.jsonl"
    feedrate("tune", storage, *QUICK, "--budget", "300s", "--results", results, "--no-profile")
    assert feedrate("report", results, "--markdown", tmp_path / "r.md")[0] == 0
    assert "repeated requests" not in (tmp_path / "r.md").read_text()


@pytest.mark.parametrize("verb", ["tune", "doctor", "sweep", "gate"])
@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://feedrate-absent/x", "there is no bucket s3://feedrate-absent"),
        ("s3://feedrate/absent", "there is nothing in s3://feedrate/absent"),
        ("s3://KEY:TOPSECRET@feedrate/x", "a URL may not contain credentials"),
        ("s3://feedrate/x?X-Amz-Signature=TOPSECRET", "may not end in a query"),
    ],
)
@pytest.mark.usefixtures("s3")
def test_what_is_wrong_with_a_url_is_said_in_one_sentence(feedrate, verb, url, told):
    began = time.monotonic()
    code, said = feedrate(verb, url, *(["--base", "HEAD"] if verb == "gate" else []))
    assert time.monotonic() - began < 5
    assert (code, said.count("feedrate: ")) == (2, 1), said
    assert told in said
    assert "TOPSECRET" not in said


@pytest.mark.usefixtures("s3")
def test_profiles_of_a_url_with_credentials_are_refused_without_showing_them(feedrate):
    for verb in ("path", "show", "check", "remove"):
        code, said = feedrate("profile", verb, "s3://KEY:TOPSECRET@feedrate/x")
        assert code == 2
        assert "TOPSECRET" not in said


def test_an_endpoint_that_does_not_answer_is_named_within_seconds(feedrate, s3, monkeypatch):
    del s3
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    code, said = feedrate("tune", "s3://feedrate-elsewhere/x")
    assert time.monotonic() - began < 5
    assert code == 2
    assert "AWS_ENDPOINT_URL" in said


@pytest.mark.slow
def test_doctor_examines_objects(feedrate, place):
    code, said = feedrate("doctor", place)
    assert code == 0, said
    text = " ".join(said.split())
    assert "logs: 12 files" in text
    assert "page cache read" not in text
