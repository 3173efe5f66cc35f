"""Ctrl-C and SIGTERM end a command with one line, 130 or 143, and no process left behind."""

import signal
import subprocess
import sys
import textwrap
from functools import partial

import pytest
from feedrate.harness.cli import app as cli
from feedrate.harness.cli import doctor_view, measure_commands
from feedrate.harness.in_process import in_process
from feedrate.harness.record.results import read_results
from feedrate.harness.show.progress import PlainLines
from feedrate.harness.system.stopping import Terminated, finishing, handling, interrupt

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}

both = pytest.mark.parametrize("number", STATUS, ids=lambda one: one.name)


@pytest.fixture
def feedrate(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["feedrate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        return stop.value.code, capsys.readouterr().err

    return call


@both
@pytest.mark.parametrize("module", ["msgspec", "pandas", "typer"])
def test_a_signal_during_the_imports_is_one_line(number, module):
    code = textwrap.dedent(
        f"""
        import signal, sys

        class Sends:
            def find_spec(self, name, *_):
                if name == {module!r}:
                    signal.raise_signal({int(number)})

        sys.meta_path.insert(0, Sends())
        from feedrate.harness.__main__ import main
        main()
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (STATUS[number], "")
    assert done.stderr == "feedrate: interrupted\n"


def test_a_signal_that_is_ignored_stays_ignored():
    code = textwrap.dedent(
        """
        import signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        from feedrate.harness.__main__ import main
        try:
            main()
        finally:
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
        """
    )
    command = [sys.executable, "-c", code, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@both
@pytest.mark.parametrize(
    ("module", "function", "arguments"),
    [
        (doctor_view, "run_doctor", ["doctor"]),
        (cli, "make_progress", ["demo"]),
        (cli, "check_outputs", ["report", "r.jsonl"]),
        (measure_commands, "journal_file", ["tune", "data"]),
    ],
)
def test_a_command_says_that_it_was_interrupted(
    feedrate, monkeypatch, number, module, function, arguments
):
    monkeypatch.setattr(module, function, lambda *_, **__: signal.raise_signal(number))
    before = signal.getsignal(number)
    code, err = feedrate(*arguments)
    how = " by SIGTERM" if number == signal.SIGTERM else ""
    assert (code, err) == (STATUS[number], f"feedrate: {arguments[0]} was interrupted{how}\n")
    assert signal.getsignal(number) == before


@both
def test_a_sweep_that_is_stopped_says_how_to_go_on_and_goes_on(
    feedrate, monkeypatch, storage, tmp_path, number
):
    class Stops(PlainLines):
        def finished(self, *_):
            signal.raise_signal(number)

    results = tmp_path / "r.jsonl"
    command = ["sweep", storage, "--backends", "original", "--repeats", 1, "--results", results]
    monkeypatch.setattr(
        measure_commands, "sweep", partial(measure_commands.sweep, make_executor=in_process)
    )
    with monkeypatch.context() as patch:
        patch.setattr(measure_commands, "make_progress", Stops)
        code, err = feedrate(*command)
    assert code == STATUS[number]
    told = f"what was measured is in {results}. Go on with: the same command"
    assert f"{told} and --resume\n" in err
    with monkeypatch.context() as patch:
        patch.setattr(measure_commands, "make_progress", Stops)
        code, err = feedrate(*command, "--resume")
    assert code == STATUS[number]
    assert f"{told}\n" in err  # which has both flags already
    measured = len(read_results(results).samples)
    assert measured
    code, _ = feedrate(*command, "--resume")
    assert code == 0
    assert len(read_results(results).samples) > measured


@both
def test_a_sweep_that_is_stopped_before_it_measures_leaves_no_journal(
    feedrate, monkeypatch, tmp_path, number
):
    results = tmp_path / "r.jsonl"
    results.touch()
    monkeypatch.setattr(measure_commands, "sweep", lambda *_, **__: signal.raise_signal(number))
    code, err = feedrate("sweep", tmp_path, "--results", results)
    assert code == STATUS[number]
    assert "--resume" not in err
    assert not results.exists()


def finish(number, done, error=None):
    with finishing():
        signal.raise_signal(number)
        if error is not None:
            raise error
        done.append("the whole block")
    done.append("what follows")


def test_what_must_be_finished_is_finished_before_a_signal_counts():
    done = []
    with handling(interrupt), pytest.raises(Terminated):
        finish(signal.SIGTERM, done)
    assert done == ["the whole block"]


def test_a_signal_counts_also_when_what_must_be_finished_fails():
    with handling(interrupt), pytest.raises(KeyboardInterrupt):
        finish(signal.SIGINT, [], PermissionError("of another user"))


def test_a_handler_that_was_replaced_meanwhile_stays():
    before = signal.getsignal(signal.SIGTERM)
    try:
        with handling(interrupt):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
