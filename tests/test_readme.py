"""Every command and every block of code in the README and the guides works as it stands there."""

import gc
import importlib.util
import math
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

if importlib.util.find_spec("tensorflow") is None or importlib.util.find_spec("altair") is None:
    pytest.skip("the README is for all extras, and not all are there", allow_module_level=True)

from feedrate import harness
from feedrate.harness.cli import app as cli
from feedrate.harness.cli import demo, measure_commands
from feedrate.harness.datasets.data import write_box_scores, write_flights
from feedrate.harness.in_process import in_process
from feedrate.harness.run import tuner
from feedrate.harness.run.costs import Costs
from feedrate.harness.trial import what_if
from feedrate.loaders import ParquetStorage

from tests.servers.s3 import moto_server, put

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# In the order in which their examples run.
GUIDES = ("loading", "own-loaders", "tuning", "caching", "reports")
PAGES = [README, *((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in GUIDES)]
# What takes minutes, and is run by another test or before a release in a fresh environment.
ELSEWHERE = {
    "feedrate doctor --calibrate": "tests/harness/doctor/test_known_truth.py",
    "feedrate gate --self-test": "tests/harness/cli/test_gate_commands.py",
    "feedrate gate DATA --base origin/main --loader package.module:function":
        "tests/harness/cli/test_gate_commands.py",
    "feedrate gate DATA --base origin/main --head HEAD": "tests/test_gate_here.py",
    "feedrate tune DATA --job frame,stream --target COLUMN --loader my_loader:load":
        "tests/harness/run/test_own_loaders.py",
    "feedrate tune DATA --ray auto": "tests/harness/cluster/test_cluster.py",
    "feedrate tune s3://BUCKET/FOLDER": "tests/harness/cli/test_objects.py",
    "feedrate tune s3://my-bucket/inputs": "tests/harness/cli/test_objects.py",
    "feedrate verify DATA --loader package.module:factory":
        "tests/harness/verify/test_verify.py",
    "tox -e bench": "tox.ini",
    "tox -e peers": "tox.ini",
    "python -m benchmarks.walk_forward": "tests/benchmarks/test_walk_forward.py",
    "python -m benchmarks.peers": "tests/benchmarks/test_peers.py",
    "python benchmarks/benchmark_data_loaders.py --storage-dir data/inputs --end-date 20250115"
    " --runs 3":
        "tests/benchmarks/test_benchmark_data_loaders.py",
}  # fmt: skip
QUICK = (
    "--backends pytorch --workers 0 --prefetch 0 --cache none --files 4 --budget 300s --repeats 1"
)


def parts():
    """The pages' blocks of code with their languages, and (as None) the text between them."""
    for page in PAGES:
        pieces = re.split(r"^```(.*)$", page, flags=re.MULTILINE)
        yield None, pieces[0]
        for number, (opening, text) in enumerate(zip(pieces[1::2], pieces[2::2], strict=True)):
            yield (opening if number % 2 == 0 else None), text.lstrip("\n")


def blocks(language):
    return [text for found, text in parts() if found == language]


def commands():
    """All that stands in backticks and can be typed."""
    prose = " ".join(" ".join(text for found, text in parts() if found is None).split())
    found = re.findall(r"`((?:feedrate|tox|python|pip)(?: [^`]+)?)`", prose)
    lines = [line for block in blocks("") for line in block.splitlines() if line.strip()]
    return list(dict.fromkeys([*found, *lines]))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A storage of twenty days in January 2025, as the examples name them."""
    made = tmp_path_factory.mktemp("made")
    write_box_scores(made, days=20)
    folder = tmp_path_factory.mktemp("readme")
    storage = ParquetStorage(folder / "data" / "inputs")
    for kind in ("box_scores", "dfs_salaries"):
        for number, path in enumerate(ParquetStorage(made).files(kind), start=1):
            day = f"202501{number:02}"
            storage.save(pd.read_parquet(path).assign(gameDate=day), kind, day)
    for day in range(1, 21):
        prices = pd.DataFrame({"ticker": ["A", "B"], "close": [1.5, 2.5], "volume": [day, 20_000]})
        storage.save(prices, "prices", f"202501{day:02}")
    return folder


@pytest.fixture
def here(inputs, monkeypatch):
    monkeypatch.chdir(inputs)
    monkeypatch.setenv("FEEDRATE_HOME", str(inputs / "home"))
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    # Here it is no matter how sure a choice is.
    for name in ("MIN_LAUNCHES", "MIN_LAUNCHES_IN_BUDGET", "FEWEST_ROUNDS"):
        monkeypatch.setattr(f"feedrate.harness.run.launches.{name}", 1)
    monkeypatch.setattr("feedrate.harness.choose.race.SETTLED", 1e9)
    return inputs


@pytest.fixture
def quick(monkeypatch):
    """Trials run in this process: child processes take seconds to start."""
    monkeypatch.setattr(what_if, "MOST_S", 0.2)
    # Collecting garbage among the modules of both frameworks took two fifths of the time.
    monkeypatch.setattr("feedrate.harness.trial.session._release_memory", lambda _: None)
    importlib.import_module("tensorflow")  # now, so that no trial collects garbage among it
    gc.freeze()
    for verb in ("tune", "sweep"):
        function = partial(getattr(tuner, verb), make_executor=in_process)
        for module in (harness, measure_commands, demo):
            monkeypatch.setattr(module, verb, function, raising=False)


@pytest.fixture
def bucket(inputs, monkeypatch):
    """A store on loopback with the storage of the examples in the bucket that they name."""
    prices = sorted((inputs / "data" / "inputs" / "prices").iterdir())
    with moto_server() as endpoint:
        put(endpoint, "my-bucket", {f"inputs/prices/{p.name}": p.read_bytes() for p in prices})
        for name, value in endpoint.environment().items():
            monkeypatch.setenv(name, value)
        yield


@pytest.mark.usefixtures("quick", "bucket")
@pytest.mark.slow
def test_the_python_examples_run_one_after_the_other(here):
    import benchmarks.walk_forward  # noqa: F401 - the checkout's, which the example imports

    known = {}
    examples = blocks("python")
    assert len(examples) == 8
    for code in examples:
        if code.startswith("# my_loader.py"):
            (here / "my_loader.py").write_text(code)  # a module, run below and by its own test
        quick = code.replace('budget="60s"', 'budget="300s", backends=["pytorch"], workers=[0]')
        exec(compile(quick, "README.md", "exec"), known)  # noqa: S102 - our own README
    assert len(known["logs"]) > 0
    assert len(known["frame"]) == 2 * len(known["large"]) == 14
    assert set(known["frames"]) == {"prices", "box_scores"}
    assert known["fast"].predictions.equals(known["plain"].predictions)
    assert "pytorch" in str(known["outcome"])


def run(monkeypatch, line):
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as stop:
        cli.run()
    return stop.value.code


def ready(line):
    """A command with the README's placeholders filled in, and small."""
    places = {
        r"\bDATA\b": "data/inputs", r"\bFILE\.jsonl\b": "FILE.jsonl", r"\bOUT\b": "out",
        r"\bCOLUMN\b": "points", r"\bDIR\b": "charts", r"\bLAPTOP\.jsonl\b": "FILE.jsonl",
        r"\bCI\.jsonl\b": "CI.jsonl", r"\bpackage\.module:function\b": "my_loader:frame",
        r"\bgrid\.toml\b": "grid.toml", r"\.\.\.|…": "tune data/inputs",
    }  # fmt: skip
    for place, filled in places.items():
        line = re.sub(place, filled, line)
    line = line.replace("--local-ranks 4", "--local-ranks 1")  # by child processes in other tests
    verb = [*line.split(), "", ""][1 + ("--debug" in line)]
    if verb in ("tune", "sweep"):
        small = QUICK.replace("--budget 300s ", "") if verb == "sweep" else QUICK
        small += "" if "--passes" in line else " --passes 1"
        line = re.sub(r"--budget \S+", "", line) + f" {small} --data-type box_scores"
    if verb == "sweep":  # whose results must be new
        line = line.replace("FILE.jsonl", "sweep.jsonl")
    if verb == "data":
        line += " --days 3" if "lineitem" not in line else " --scale 0.001"
    return line


@pytest.mark.slow
def test_every_command_runs_or_is_run_elsewhere(here, monkeypatch, request):
    (here / "my_loader.py").write_text(
        "import pandas as pd\n\ndef frame(settings, files, columns, target, job):\n"
        "    return pd.concat([pd.read_parquet(f, columns=columns) for f in files],"
        " ignore_index=True)\n\nframe.uses = set()\n"
    )
    (here / "grid.toml").write_text("workers = [0]\n")
    # In child processes, whose peaks of memory are measured; all that follow run in this one.
    first = ready("feedrate tune DATA --max-memory 2GiB")
    assert run(monkeypatch, f"{first} --results FILE.jsonl") == 0
    (here / "CI.jsonl").write_bytes((here / "FILE.jsonl").read_bytes())
    request.getfixturevalue("quick")
    monkeypatch.setattr(Costs, "explaining", lambda *_: math.inf)  # the first one was explained
    left, done = [], {first}
    # What removes the profile comes last, and what asks for one after what makes it.
    for line in sorted(commands(), key=lambda line: "remove" in line or "clear" in line):
        known = line.startswith("feedrate ")
        if line in ELSEWHERE:
            assert (ROOT / ELSEWHERE[line]).exists()
        elif (
            not known or line == "feedrate demo" or line.startswith(("feedrate-", "feedrate gate"))
        ):
            left.append(line)
        else:
            typed = ready(line)
            code = 0 if typed in done else run(monkeypatch, typed)
            done.add(typed)
            assert code == 0, f"{line}: {typed}: exit {code}"
    # What is left are the two commands of the start, and others that install something.
    installs = r"python3 -m (pip install|venv)|pip install|feedrate demo$|tox$|feedrate$|pip$"
    assert [line for line in left if not re.match(installs, line)] == []


@pytest.mark.slow
def test_it_can_be_installed_in_another_project_as_it_stands_there(tmp_path):
    line = next(one for one in blocks("") if "git+file" in one).strip()
    repository = tmp_path / "feedrate"
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git")
    subprocess.run(["git", "clone", "-q", ROOT, repository], check=True)
    line = line.replace("/path/to/feedrate", str(repository)).replace("python3", sys.executable)
    place = tmp_path / "place"
    command = [*shlex.split(line), "-q", "--no-deps", "--target", place]
    subprocess.run(command, check=True)
    assert (place / "feedrate" / "loaders" / "storage.py").exists()
    assert (place / "feedrate" / "harness" / "cli" / "app.py").exists()


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_the_two_first_commands_name_what_there_is():
    start, tests, *_ = (block.strip() for block in blocks(""))
    assert start == 'python3 -m pip install -c constraints.txt ".[all]" && feedrate demo'
    assert tests in (ROOT / ".ci" / "run").read_text()
    assert (ROOT / "constraints.txt").exists()


@pytest.mark.usefixtures("quick")
@pytest.mark.slow
def test_the_demo_leaves_a_report_to_look_at(here, monkeypatch, capsys):
    monkeypatch.setattr(demo, "BUDGET_S", 300.0)  # it is over much sooner
    monkeypatch.setattr(demo, "FILE_COUNTS", [6])
    monkeypatch.setattr(demo, "WORKERS", [0])
    monkeypatch.setattr(demo, "write_flights", lambda folder: write_flights(folder, days=6))
    assert run(monkeypatch, "feedrate demo") == 0
    made = {path.name for path in (here / "feedrate-demo").iterdir()}
    assert {"data", "results.jsonl", "profile.json", "report.html", "report.md"} <= made
    assert "report.html" in capsys.readouterr().out


def test_no_figure_of_speed_is_typed_by_hand():
    every = "".join(PAGES)
    outside = re.sub(r"<!-- demo: .*?<!-- end of demo -->", "", every, flags=re.DOTALL)
    assert not re.search(r"\b\d+(\.\d+)?\s?(×|x faster|times as fast)", outside)  # noqa: RUF001
