"""`feedrate gate` through its entry point, on revisions of a small repository."""

import json
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from functools import partial
from itertools import count
from math import nan
from statistics import median

import numpy as np
import psutil
import pytest
from feedrate.harness.cli import app as cli
from feedrate.harness.gate import gate
from feedrate.harness.gate import verb as gate_verb
from feedrate.harness.gate.revisions import BuildError, build, check_is_run
from feedrate.harness.gate.selftest import self_test
from feedrate.harness.gate.spec import cells_of
from feedrate.harness.gate.verb import gate as run_gate
from feedrate.harness.gate.verb import gate_against
from feedrate.harness.in_process import InProcessExecutor
from feedrate.harness.record.results import read_results
from feedrate.harness.run.process_start import CHILD_MODULE

from ...backends import unregister


@pytest.fixture
def quick(monkeypatch):
    """A gate of few pairs: what is looked at here is no matter of time."""
    monkeypatch.setattr(gate, "SCREEN_PAIRS", 1)
    monkeypatch.setattr(gate, "CONFIRM_PAIRS", 1)


class RevisionExecutor(InProcessExecutor):
    """Runs the loader of a revision in this process, whichever was imported before."""

    def __init__(self, data, _, python):
        super().__init__(data)
        self._folder = python.path[0]

    def run(self, *trial, **options):
        sys.modules.pop("tinyload", None)
        unregister("tinyload:load")
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(self._folder)
            return super().run(*trial, **options)


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


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["feedrate", "gate", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.run()
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


@pytest.mark.usefixtures("quick")
@pytest.mark.slow
def test_a_loader_of_another_repository_is_gated_other_rows_fail_and_all_reports_are_written(
    repository, storage, tmp_path, monkeypatch, capsys
):
    repository()
    repository(change=".iloc[1:]")
    spec, summary = tmp_path / "gate.toml", tmp_path / "summary.md"
    results = tmp_path / "r.jsonl"
    spec.write_text(f"data = {str(storage)!r}\n{SPEC}")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    code, out, err = call(
        monkeypatch, capsys, "--spec", spec, "--base", "HEAD~1", "--junit", tmp_path / "j.xml",
        "--markdown", tmp_path / "m.md", "--json", "--results", results,
    )  # fmt: skip
    assert code == 1
    told = json.loads(out)
    assert told["verdict"] == "regression"
    rows = {one["cell"]: one for one in told["findings"] if one["metric"] == "rows"}
    assert "599 rows instead of 600" in rows["mine"]["why"]
    assert rows["original"]["why"] == "not measured: another cell had failed"
    found = read_results(results)
    assert {one.arm for one in found.samples} == {"base", "head"}
    assert found.header.spec["gate"]["base"].startswith("HEAD~1 (")
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
        (["{storage}", "--baseline", "x", "--head", "HEAD"], "leave out --head"),
        (["{storage}", "--base", "HEAD", "--head", "x", "--head-python", "p"], "--head-python"),
        (["--self-test", "--base", "HEAD"], "takes nothing else: leave out --base"),
        (["--pytest-benchmark", "a", "b", "--target", "x"], "leave out --target"),
        (["{storage}", "--base", "HEAD", "--junit", "no/j.xml"], "no folder no"),
        (["{storage}", "--base", "HEAD", "--base-python", "python3"], "--base or --base-python"),
        (["--pytest-benchmark", "a", "b", "--base", "HEAD"], "leave out --base"),
        (["{storage}", "--base", "HEAD", "--results", "{empty}"], "holds results already"),
        (["{storage}", "{storage}", "--base", "HEAD"], "one DATA"),
        (["--pytest-benchmark", "a.json"], "1 file to compare"),
        (["--pytest-benchmark", "a.json", "b.json"], "a.json"),
        (["--pytest-benchmark", "{empty}", "{storage}"], "not a file of pytest-benchmark"),
        (["{storage}", "--base", "HEAD", "--threshold", "inf"], "threshold is inf"),
        (["{storage}", "--base", "HEAD", "--head", ""], "no revision ''"),
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
        ("passes = 2\n[[cells]]\n[[cells]]\nspeed = 3\n", "cell 2: unknown key 'speed'"),
        ('[[cells]]\nname = "a"\nthreshold = 0.5\n', "cell 'a': threshold is 0.5"),
        ('[[cells]]\nname = "a"\nnum_workers = -1\n', "cell 'a': num_workers"),
        ("[[cells]]\nmetrics = { cpu_s = 0.9 }\n", "the threshold of cpu_s is 0.9"),
        ("[[cells]]\ncontrol = true\nmetrics = { cpu_s = 1.9 }\n", "leave out its metrics"),
        ("[cells]\njob = 'frame'\n", "write each cell as a table below [[cells]]"),
        (
            '[[cells]]\nbackend = "original"\n[[cells]]\nname = "b"\nbackend = "original"\n',
            "cells 'frame original' and 'b' measure the same",
        ),
        ("[[cells]]\njob = 3\n", "cell 1: job is 3; it must be text"),
        ('[[cells]]\njob = "dance"\n', "unknown job 'dance'"),
        ('[[cells]]\nbackend = "torch"\n', "pytorch"),
        ("[[cells]]\n[[cells]]\n", "two cells are called"),
        ("[[cells]]\nmetrics = { wall = 1.1 }\n", "unknown metric 'wall'"),
        ("[[cells]]\nfiles = 99\n", "the data have only 12 files"),
        ("[[cells]]\nspeed = 3\n", "cell 1: unknown key 'speed'"),
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
@pytest.mark.slow
def test_a_baseline_is_made_compared_with_and_refused_elsewhere(
    repository, storage, tmp_path, monkeypatch, capsys
):
    repository()
    spec, baseline = tmp_path / "gate.toml", tmp_path / "base.jsonl"
    spec.write_text('passes = 1\n[[cells]]\nbackend = "original"\n')
    arguments = [storage, "--spec", spec, "--baseline", baseline]
    code, out, err = call(monkeypatch, capsys, *arguments, "--update-baseline")
    assert code == 0
    assert "now holds 1 cell of" in err
    assert out.startswith("PASS: measured the installed code; there is no base to compare")
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


@pytest.mark.usefixtures("quick")
def test_a_baseline_without_these_cells_is_no_pass(storage, tmp_path, monkeypatch, capsys):
    here = partial(gate_against, make_executor=lambda data, *_: InProcessExecutor(data))
    monkeypatch.setattr(gate_verb, "gate_against", here)
    spec, baseline = tmp_path / "gate.toml", tmp_path / "base.jsonl"
    arguments = [storage, "--spec", spec, "--baseline", baseline]
    spec.write_text('passes = 1\n[[cells]]\nbackend = "original"\n')
    assert call(monkeypatch, capsys, *arguments, "--update-baseline")[0] == 0
    spec.write_text('passes = 1\n[[cells]]\nbackend = "original"\nfiles = 3\n')
    code, out, _ = call(monkeypatch, capsys, *arguments)
    assert code == 3
    assert "has none of these cells" in " ".join(out.split())
    assert call(monkeypatch, capsys, *arguments, "--update-baseline")[0] == 0
    assert len({one.trial for one in read_results(baseline).samples}) == 2


@pytest.mark.parametrize(
    ("failures", "wrong", "verdict"),
    [
        ({"pytorch": "error"}, False, "failed"),
        ({}, True, "regression"),
        ({}, False, "inconclusive"),
    ],
)
def test_what_fails_fails_although_the_baseline_has_none_of_the_cells(
    storage, tmp_path, make_fake, failures, wrong, verdict
):
    spec, baseline = tmp_path / "gate.toml", tmp_path / "base.jsonl"
    spec.write_text('passes = 1\n[[cells]]\nbackend = "original"\n')
    gate_against(
        storage, baseline=baseline, spec=spec, update=True,
        make_executor=lambda *_: make_fake(lambda _: (1.0, 1.0)),
    )  # fmt: skip
    spec.write_text('passes = 1\n[[cells]]\nbackend = "pytorch"\n')

    def fake(data, plan, _):
        made = make_fake(lambda _: (1.0, 1.0), failures=dict(failures))
        if wrong:
            (cell,) = cells_of(plan, len(data.paths))
            made.wrong.add(cell.trial.id)
        return made

    outcome = gate_against(storage, baseline=baseline, spec=spec, make_executor=fake)
    assert outcome.judgement.verdict == verdict
    assert ("--update-baseline" in " ".join(outcome.notes)) == (verdict == "inconclusive")


@pytest.mark.parametrize(("factor", "verdict", "took"), [(0.5, "pass", 0.05), (1.0, "pass", 0.1)])
def test_a_baseline_takes_what_is_surely_faster(
    storage, tmp_path, make_fake, factor, verdict, took
):
    spec, baseline = tmp_path / "gate.toml", tmp_path / "base.jsonl"
    names = ("pytorch", "original")
    cells = "".join(f'[[cells]]\nbackend = "{name}"\n' for name in names)
    spec.write_text(f"passes = 1\n{cells}")

    def measured(times):
        return lambda *_: make_fake(lambda trial: (times[trial.backend],) * 2, noise=0.02)

    usual = {"pytorch": 0.1, "original": 1.0}
    given = {"baseline": baseline, "spec": spec, "update": True}
    gate_against(storage, make_executor=measured(usual), **given)
    header = baseline.read_text().splitlines()[0]
    faster = usual | {"pytorch": 0.1 * factor}
    outcome = gate_against(storage, make_executor=measured(faster), **given)
    assert outcome.judgement.verdict == verdict
    known = read_results(baseline)
    times = [one.metrics["wall_s"] for one in known.samples if one.backend == "pytorch"]
    assert median(times) == pytest.approx(took, rel=0.1)
    assert len({one.trial for one in known.samples}) == 2
    if factor < 1:  # the control is of the same run
        assert known.samples == read_results(outcome.results_path).samples
    assert baseline.read_text().splitlines()[0] == header


@pytest.mark.usefixtures("quick_build")
def test_controls_run_as_base_on_both_sides(repository, storage, tmp_path, make_fake):
    repository()
    repository(change="  # other")
    spec = tmp_path / "gate.toml"
    spec.write_text(SPEC)
    made = []

    def fake(*_):
        made.append(make_fake(lambda _: (1.0, 1.0), noise=0.02))
        return made[-1]

    outcome = run_gate(storage, base="HEAD~1", spec=spec, make_executor=fake)
    rows = {one.cell: one.verdict for one in outcome.judgement.findings if one.metric == "rows"}
    assert rows == {"original": "pass", "mine": "pass"}
    backends = [{trial.backend for trial, *_ in one.runs} for one in made]
    assert backends == [{"tinyload:load", "original"}, {"tinyload:load"}]


@pytest.mark.usefixtures("quick_build")
@pytest.mark.alone
@pytest.mark.slow
def test_a_slower_revision_fails(repository, storage, tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "SCREEN_PAIRS", 1)
    monkeypatch.setattr(gate, "CONFIRM_PAIRS", 9)  # the fewest that can fail
    repository()
    repository(change="\n\nimport time\ntime_load = load\n\ndef load(*given):\n"
               "    time.sleep(0.3)\n    return time_load(*given)\n")  # fmt: skip
    spec = tmp_path / "gate.toml"
    spec.write_text(SPEC.partition('[[cells]]\nname = "original')[0])
    outcome = run_gate(storage, base="HEAD~1", spec=spec, make_executor=RevisionExecutor)
    unregister("tinyload:load")
    assert outcome.judgement.verdict == "regression"
    by_time = next(one for one in outcome.judgement.findings if one.metric == "wall_s")
    assert by_time.compared.ratio.estimate > 1.5
    assert by_time.compared.head > by_time.compared.base + 0.25


@pytest.mark.usefixtures("quick")
@pytest.mark.slow
def test_interpreters_that_exist_are_compared(storage, tmp_path, loader_code):
    pythons = []
    for side, change in (("base", ""), ("head", ".iloc[1:]")):
        folder = tmp_path / side
        folder.mkdir()
        (folder / "tinyload.py").write_text(loader_code.replace("CHANGE", change))
        python = folder / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        pythons.append(str(python))
    spec = tmp_path / "gate.toml"
    spec.write_text(SPEC.partition('[[cells]]\nname = "original')[0])
    outcome = run_gate(storage, base_python=pythons[0], head_python=pythons[1], spec=spec)
    assert outcome.judgement.verdict == "regression"
    assert "599 rows instead of 600" in outcome.judgement.findings[0].why


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "which has tinyload; name a loader of the project with --loader"),
        (["--loader", "tinyload:lod"], "run on neither side"),
        (["--loader", "absent:load"], "which has tinyload; name a loader"),
    ],
)
@pytest.mark.usefixtures("quick", "quick_build")
@pytest.mark.slow
def test_nothing_of_the_revisions_is_no_pass(
    repository, storage, monkeypatch, capsys, arguments, told
):
    monkeypatch.setattr(gate_verb, "gate", partial(run_gate, make_executor=RevisionExecutor))
    repository()
    code, _, err = call(monkeypatch, capsys, storage, "--base", "HEAD", *arguments)
    assert code == 2
    assert told in err


@pytest.mark.usefixtures("quick_build")
def test_what_is_installed_before_a_revision_is_told(repository, tmp_path):
    repository()
    first = tmp_path / "first"
    first.mkdir()
    # As an editable install does that puts its finder before all others.
    (first / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        "class Finder:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        file = {str(tmp_path / 'repository' / 'tinyload.py')!r}\n"
        "        if name == 'tinyload':\n"
        "            return importlib.util.spec_from_file_location(name, file)\n"
        "sys.meta_path.insert(0, Finder)\n"
    )
    built = build("HEAD")
    check_is_run(built, ["tinyload"], CHILD_MODULE)
    other = replace(built, python=replace(built.python, path=(str(first), *built.python.path)))
    with pytest.raises(BuildError, match=r"is taken from .*repository/tinyload.py"):
        check_is_run(other, ["tinyload"], CHILD_MODULE)


@pytest.mark.usefixtures("quick_build")
def test_an_environment_in_which_nothing_can_measure_is_told(repository, tmp_path):
    repository()
    first = tmp_path / "first"
    first.mkdir()
    (first / "pandas.py").write_text("raise ImportError('an old pandas')\n")
    built = build("HEAD")
    other = replace(built, python=replace(built.python, path=(*built.python.path, str(first))))
    with pytest.raises(BuildError, match="feedrate itself does not run: ImportError: an old pand"):
        check_is_run(other, ["tinyload"], CHILD_MODULE)


def test_the_self_test_says_whether_the_gate_is_right_here(make_fake):
    for more, passed in ((1.25, True), (1.0, False)):
        slower = {"known-work": 1.0, "known-more-work": more}
        seeds = count()

        def fake(*_, times=slower, seeds=seeds):
            made = make_fake(lambda trial: (times[trial.backend],) * 2, noise=0.05)
            made.random = np.random.default_rng(next(seeds))
            return made

        found = self_test(make_executor=fake)
        assert found.passed is passed
        assert ("passed" if passed else "FAILED") in str(found)
        assert found.noise == pytest.approx(0.05 * 2**0.5, rel=0.6)


def benchmark_file(path, medians, cpu="A"):
    machine = {"cpu": {"brand_raw": cpu, "count": 2}}
    benchmarks = [{"fullname": name, "stats": {"median": value}} for name, value in medians.items()]
    path.write_text(json.dumps({"machine_info": machine, "benchmarks": benchmarks}))
    return path


def test_a_benchmark_that_is_twice_in_a_file_is_refused_and_one_that_files_lack_is_noted(
    tmp_path, monkeypatch, capsys
):
    files = [benchmark_file(tmp_path / f"{n}.json", {"a": 1.0, "b": 1.0}) for n in range(4)]
    benchmark_file(files[3], {"a": 1.0})
    _, out, err = call(monkeypatch, capsys, "--pytest-benchmark", *files, "--json")
    told = "b has a time on both sides in only 1 of 2 pairs of files"
    assert json.loads(out)["notes"] == [told]
    assert told in " ".join(err.split())
    document = json.loads(files[0].read_text())
    document["benchmarks"] += document["benchmarks"][:1]
    files[0].write_text(json.dumps(document))
    code, _, err = call(monkeypatch, capsys, "--pytest-benchmark", *files)
    assert code == 2
    assert f"{files[0]} has the benchmark a twice" in " ".join(err.split())


@pytest.mark.usefixtures("quick_build")
def test_submodules_that_a_revision_was_built_without_are_named(
    repository, storage, tmp_path, make_fake
):
    commit = repository()
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},vendored/code")
    repository.git("commit", "-qm", "a submodule")
    spec = tmp_path / "gate.toml"
    spec.write_text(SPEC)
    outcome = run_gate(
        storage, base="HEAD~1", spec=spec,
        make_executor=lambda *_: make_fake(lambda _: (1.0, 1.0), noise=0.02),
    )  # fmt: skip
    assert "HEAD was built without its submodules: vendored/code" in outcome.notes
    assert not any("HEAD~1 was built" in note for note in outcome.notes)


def test_files_of_pytest_benchmark_are_compared(tmp_path, monkeypatch, capsys):
    base = benchmark_file(
        tmp_path / "b.json", {"a": 1.0, "gone": 1.0, "zero": 0.0, "b": 1.0, "nan": 1.0}
    )
    head = benchmark_file(
        tmp_path / "h.json", {"a": 4.0, "new": 1.0, "zero": 0.0, "b": 1.0, "nan": nan}
    )
    code, out, _ = call(monkeypatch, capsys, "--pytest-benchmark", base, head, "--json")
    assert code == 1
    told = {one["cell"]: (one["verdict"], one["why"]) for one in json.loads(out)["findings"]}
    assert told["a"][0] == "regression"  # beyond what launches differ by
    assert told["b"][0] == "inconclusive"  # one launch each cannot tell
    assert told["gone"] == ("inconclusive", "head does not have it")
    assert told["new"] == ("pass", "new in head: nothing to compare with")
    assert "not a time above 0" in told["zero"][1]
    assert "not a time above 0" in told["nan"][1]
    many = [benchmark_file(tmp_path / f"{n}.json", {"a": 1.0}) for n in range(14)]
    same = many[0]
    assert call(monkeypatch, capsys, "--pytest-benchmark", *many)[0] == 0
    code, _, err = call(monkeypatch, capsys, "--pytest-benchmark", same, same)
    assert code == 2
    assert "named twice" in err
    absent = benchmark_file(tmp_path / "absent.json", {"other": 1.0})
    code, out, _ = call(monkeypatch, capsys, "--pytest-benchmark", same, absent)
    assert code == 3
    assert "nothing was compared" in out
    none, empty = (benchmark_file(tmp_path / name, {}) for name in ("n.json", "e.json"))
    code, _, err = call(monkeypatch, capsys, "--pytest-benchmark", none, empty)
    assert code == 2
    assert "no benchmark is in these files" in err
    other = benchmark_file(tmp_path / "o.json", {"a": 2.0}, cpu="B")
    code, out, _ = call(monkeypatch, capsys, "--pytest-benchmark", same, other)
    assert code == 3
    assert "different machines" in out


@pytest.mark.slow
def test_a_gate_that_is_stopped_keeps_what_was_measured_and_cleans_up(
    repository, storage, tmp_path
):
    repository()
    results, spec = tmp_path / "r.jsonl", tmp_path / "gate.toml"
    spec.write_text('[[cells]]\nbackend = "tinyload:load"\n')
    code = textwrap.dedent(
        """
        import os, signal, sys, threading, time
        def stop():
            while not os.path.exists(sys.argv[-1]) or open(sys.argv[-1]).read().count("\\n") < 3:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGTERM)
        threading.Thread(target=stop, daemon=True).start()
        from feedrate.harness.cli.app import run
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


SLOW_BUILD = """
import os, subprocess, time

def build_wheel(folder, config_settings=None, metadata_directory=None):
    subprocess.Popen(["sleep", "3600"])
    open(os.environ["BUILDING"], "w").close()
    time.sleep(3600)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_a_build_that_is_stopped_leaves_nothing(repository, storage, tmp_path, monkeypatch, how):
    repository(**{"backend.py": SLOW_BUILD})
    temporary, building = tmp_path / "temporary", tmp_path / "building"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("BUILDING", str(building))
    process = subprocess.Popen(
        [sys.executable, "-m", "feedrate.harness", "gate", storage, "--base", "HEAD",
         "--loader", "tinyload:load", "--results", tmp_path / "r.jsonl"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not building.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert any(one.name() == "sleep" for one in children)
    process.send_signal(how)
    time.sleep(0.2)
    process.send_signal(how)  # an impatient second one does not stop the cleaning up
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "stopped, so there is no verdict" in err
    assert not [one for one in children if one.is_running() and one.status() != "zombie"]
    assert list(temporary.iterdir()) == []
    assert list((tmp_path / "home" / "cache" / "gate").iterdir()) == []
    assert repository.git("worktree", "list").count("\n") == 0


@pytest.mark.usefixtures("quick_build")
def test_a_gate_within_a_hook_leaves_the_index_alone(repository, monkeypatch, tmp_path):
    repository()
    index = tmp_path / "repository" / ".git" / "index"
    before = index.read_bytes()
    monkeypatch.setenv("GIT_INDEX_FILE", str(index))
    monkeypatch.setenv("GIT_DIR", str(index.parent))
    build("HEAD")
    assert index.read_bytes() == before
