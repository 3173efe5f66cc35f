"""`feedrate gate` through its entry point, on revisions of a small repository."""

import json
import subprocess
import sys
import textwrap

import pytest
from feedrate.harness import cli, gate
from feedrate.harness.gate_verb import gate as run_gate
from feedrate.harness.results import read_results


@pytest.fixture
def quick(monkeypatch):
    """A gate of few pairs: what is looked at here is no matter of time."""
    monkeypatch.setattr(gate, "SCREEN_PAIRS", 1)
    monkeypatch.setattr(gate, "CONFIRM_PAIRS", 1)


SPEC = """
passes = 1
[[cells]]
name = "mine"
backend = "tinyload:load"
[[cells]]
name = "original"
backend = "original"
control = true
"""


@pytest.mark.usefixtures("quick")
def test_a_loader_of_another_repository_is_gated_and_other_rows_fail(repository, storage, tmp_path):
    repository()
    repository(change=".iloc[1:]")
    spec = tmp_path / "gate.toml"
    spec.write_text(SPEC)
    outcome = run_gate(storage, base="HEAD~1", spec=spec, results=tmp_path / "r.jsonl")
    assert outcome.judgement.verdict == "regression"
    rows = {one.cell: one for one in outcome.judgement.findings if one.metric == "rows"}
    assert "599 rows instead of 600" in rows["mine"].why
    assert rows["original"].verdict == "pass"
    found = read_results(tmp_path / "r.jsonl")
    assert {one.arm for one in found.samples} == {"base", "head"}
    assert found.header.spec["gate"]["base"].startswith("HEAD~1 (")


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["feedrate", "gate", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.run()
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


@pytest.mark.usefixtures("quick")
def test_the_command_writes_all_reports(repository, storage, tmp_path, monkeypatch, capsys):
    repository()
    repository(change=".iloc[1:]")
    spec, summary = tmp_path / "gate.toml", tmp_path / "summary.md"
    spec.write_text(f"data = {str(storage)!r}\n{SPEC}")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    code, out, err = call(
        monkeypatch, capsys, "--spec", spec, "--base", "HEAD~1", "--junit", tmp_path / "j.xml",
        "--markdown", tmp_path / "m.md", "--json",
    )  # fmt: skip
    assert code == 1
    assert json.loads(out)["verdict"] == "regression"
    assert "::error title=feedrate gate::mine: rows" in err
    assert (tmp_path / "m.md").read_text() == summary.read_text()
    assert "<failure" in (tmp_path / "j.xml").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{storage}"], "--base"),
        (["--base", "HEAD"], "no data"),
        (["{storage}", "--base", "nowhere"], "no revision 'nowhere'"),
        (["{storage}", "--base", "HEAD", "--spec", "{empty}"], "has no cell"),
        (["{storage}", "--base", "HEAD", "--spec", "absent.toml"], "absent.toml"),
        (["{storage}", "--base", "HEAD", "--threshold", "0.5"], "threshold is 0.5"),
        (["{storage}", "--base", "HEAD", "--inconclusive", "maybe"], "pass or fail"),
        (["{storage}", "--baseline", "absent.jsonl"], "absent.jsonl"),
        (["{storage}", "--baseline", "{empty}"], "feedrate-results"),
        (["{storage}", "--update-baseline"], "--baseline FILE"),
        (["{storage}", "--baseline", "x", "--head", "HEAD"], "leave out revisions"),
        (["{storage}", "--base", "HEAD", "--base-python", "python3"], "two bases"),
        (["--pytest-benchmark", "a", "b", "--base", "HEAD"], "name no more"),
        (["{storage}", "--base", "HEAD", "--results", "{empty}"], "holds results already"),
        (["{storage}", "{storage}", "--base", "HEAD"], "one DATA"),
        (["--pytest-benchmark", "a.json"], "1 files to compare"),
        (["--pytest-benchmark", "a.json", "b.json"], "a.json"),
        (["--pytest-benchmark", "{empty}", "{empty}"], "no file of pytest-benchmark"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(
    repository, storage, tmp_path, monkeypatch, capsys, arguments, told
):
    repository()
    empty = tmp_path / "empty.toml"
    empty.write_text("passes = 2\n")
    places = {"storage": storage, "empty": empty}
    code, out, err = call(monkeypatch, capsys, *(one.format(**places) for one in arguments))
    assert code == 2
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("feedrate: ")]
    assert len(lines) == 1
    assert told in lines[0]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ('[[cells]]\njob = "dance"\n', "unknown job 'dance'"),
        ('[[cells]]\nbackend = "torch"\n', "pytorch"),
        ("[[cells]]\n[[cells]]\n", "two cells are called"),
        ("[[cells]]\nmetrics = { wall = 1.1 }\n", "unknown metric 'wall'"),
        ("[[cells]]\nfiles = 99\n", "only 12 files"),
        ("[[cells]]\nspeed = 3\n", "speed"),
    ],
)
def test_a_cell_that_is_wrong_is_named(
    repository, storage, tmp_path, monkeypatch, capsys, cells, told
):
    repository()
    spec = tmp_path / "gate.toml"
    spec.write_text(cells)
    code, _, err = call(monkeypatch, capsys, storage, "--base", "HEAD", "--spec", spec)
    assert code == 2
    assert told in err


@pytest.mark.usefixtures("quick")
def test_a_baseline_is_made_compared_with_and_refused_elsewhere(
    repository, storage, tmp_path, monkeypatch, capsys
):
    repository()
    spec, baseline = tmp_path / "gate.toml", tmp_path / "base.jsonl"
    spec.write_text('passes = 1\n[[cells]]\nbackend = "original"\n')
    arguments = [storage, "--spec", spec, "--baseline", baseline]
    code, out, err = call(monkeypatch, capsys, *arguments, "--update-baseline")
    assert code == 0
    assert "now holds 1 cells" in err
    code, out, _ = call(monkeypatch, capsys, *arguments, "--json")
    told = json.loads(out)
    assert (code, told["base"]) in ((0, str(baseline)), (3, str(baseline)))
    assert told["findings"][1]["metric"] == "wall_s"
    text = baseline.read_text()
    cpus = json.loads(text.splitlines()[0])["environment"]["effective_cpus"]
    baseline.write_text(text.replace(f'"effective_cpus":{cpus}', '"effective_cpus":999', 1))
    code, out, _ = call(monkeypatch, capsys, *arguments)
    assert code == 3
    assert "the number of CPUs was 999" in " ".join(out.split())
    assert call(monkeypatch, capsys, *arguments, "--inconclusive", "pass")[0] == 0
    assert call(monkeypatch, capsys, *arguments, "--inconclusive", "fail")[0] == 1


def benchmark_file(path, medians, cpu="A"):
    machine = {"cpu": {"brand_raw": cpu, "count": 2}}
    benchmarks = [{"fullname": name, "stats": {"median": value}} for name, value in medians.items()]
    path.write_text(json.dumps({"machine_info": machine, "benchmarks": benchmarks}))
    return path


def test_files_of_pytest_benchmark_are_compared(tmp_path, monkeypatch, capsys):
    base = benchmark_file(tmp_path / "b.json", {"a": 1.0, "gone": 1.0, "zero": 0.0, "b": 1.0})
    head = benchmark_file(tmp_path / "h.json", {"a": 4.0, "new": 1.0, "zero": 0.0, "b": 1.0})
    code, out, _ = call(monkeypatch, capsys, "--pytest-benchmark", base, head, "--json")
    assert code == 1
    told = {one["cell"]: (one["verdict"], one["why"]) for one in json.loads(out)["findings"]}
    assert told["a"][0] == "regression"  # beyond what launches differ by
    assert told["b"][0] == "inconclusive"  # one launch each cannot tell
    assert told["gone"] == ("inconclusive", "head does not have it")
    assert told["new"] == ("pass", "new in head: nothing to compare with")
    assert "no time above 0" in told["zero"][1]
    same = benchmark_file(tmp_path / "s.json", {"a": 1.0})
    alike = benchmark_file(tmp_path / "t.json", {"a": 1.0})
    assert call(monkeypatch, capsys, "--pytest-benchmark", *[same, alike] * 7)[0] == 0
    none = benchmark_file(tmp_path / "n.json", {})
    code, _, err = call(monkeypatch, capsys, "--pytest-benchmark", none, none)
    assert code == 2
    assert "no benchmark is in these files" in err
    other = benchmark_file(tmp_path / "o.json", {"a": 2.0}, cpu="B")
    code, out, _ = call(monkeypatch, capsys, "--pytest-benchmark", same, other)
    assert code == 3
    assert "different machines" in out


def test_a_gate_that_is_stopped_keeps_what_was_measured_and_cleans_up(
    repository, storage, tmp_path
):
    repository()
    results, spec = tmp_path / "r.jsonl", tmp_path / "gate.toml"
    spec.write_text('[[cells]]\nbackend = "original"\n')
    code = textwrap.dedent(
        """
        import os, signal, sys, threading, time
        def stop():
            while not os.path.exists(sys.argv[-1]) or open(sys.argv[-1]).read().count("\\n") < 3:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGTERM)
        threading.Thread(target=stop, daemon=True).start()
        from feedrate.harness.cli import run
        run()
        """
    )
    done = subprocess.run(
        [
            sys.executable, "-c", code, "gate", storage, "--base", "HEAD", "--spec", spec,
            "--results", results,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"what was measured is in {results}" in done.stderr
    assert len(read_results(results).samples) >= 2
    assert repository.git("worktree", "list").count("\n") == 0
