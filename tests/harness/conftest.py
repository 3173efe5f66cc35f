"""A fake executor with a clock of its own, and small data for the real one."""

import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feedrate.harness.gate import revisions
from feedrate.harness.gate.wheels import PACKAGES
from feedrate.harness.plan.spec import Spec
from feedrate.harness.record.journal import Journal
from feedrate.harness.record.results import Header, read_results
from feedrate.harness.record.sampling import picked
from feedrate.harness.run.executor import PassSample, TrialRun
from feedrate.harness.run.scheduler import Scheduler
from feedrate.harness.run.search import Search
from feedrate.harness.trial.fingerprint import Fingerprint
from feedrate.harness.trial.work import Data
from feedrate.loaders.base.machine import fingerprint
from feedrate.loaders.parquet.dataset import Dataset

from ..loaders.remote.conftest import moto, s3, upload  # noqa: F401 - fixtures


class Clock:
    """Seconds that pass only when somebody works."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@dataclass
class FakeExecutor:
    """Answers from a table of times instead of running anything.

    Attributes:
        seconds: given a trial, the time of a first and of a later pass.
        failures: trial ids (or backends) to the verdict they end with, before any pass.
        later_failures: trial ids and phases to the passes that they finish, and the verdict then.
        wrong: trial ids whose rows differ from the original's.
        process_s: what a process takes to start.
        starts: by backend, what its imports and warm-up take beside that. Every second launch of a
            backend takes a fifth of it: a fork.
        check_s: what the original's rows of a file take to load and digest.
        verify: whether the visit that verifies the rows takes time.
        explain_s: what explaining takes beside a launch.
    """

    seconds: object
    clock: Clock = field(default_factory=Clock)
    failures: dict = field(default_factory=dict)
    later_failures: dict = field(default_factory=dict)
    wrong: set = field(default_factory=set)
    memory: object = None
    rows: object = lambda _: 1000
    noise: float = 0.0
    runs: list = field(default_factory=list)
    closed: bool = False
    explained: int = 0
    digest: str = "v:rows"
    launches: int = 0
    process_s: float = 0.0
    starts: dict = field(default_factory=dict)
    check_s: float = 0.0
    verify: bool = False
    explain_s: float = 0.0
    every: list = field(default_factory=list)
    references: list = field(default_factory=list)
    stopped: list = field(default_factory=list)
    started: set = field(default_factory=set)
    launched_of: dict = field(default_factory=dict)

    def __post_init__(self):
        self.random = np.random.default_rng(0)

    def run(self, trial, phase, *, passes, verify, every=1, within_s=None):
        self.runs.append((trial, phase, verify))
        self.every.append((every, verify))
        began = self.clock.now
        found = self._run(trial, phase, passes=passes, verify=verify)
        if within_s is not None and self.clock.now - began > within_s:
            self.clock.now = began + within_s
            self.stopped.append(trial.id)
            return TrialRun([], None, "hang", "too long", out_of_time=True)
        return found

    def _run(self, trial, phase, *, passes, verify):
        launched = self.launched_of.get(trial.backend, 0)
        self.launched_of[trial.backend] = launched + 1
        start = self.process_s + self.starts.get(trial.backend, 0.0)
        self.clock.now += start / 5 if launched % 2 and phase != "memory" else start
        self.clock.now += self.explain_s if phase == "explaining" else 0.0
        self.explained += phase == "explaining"
        self.launches += 1
        launch = self.launches
        first, later = self.seconds(trial)
        factor = float(np.exp(self.noise * self.random.standard_normal()))
        times = [factor * (later if number else first) for number in range(passes)]
        self.clock.now += sum(times) + (times[0] if verify and self.verify else 0.0)
        verdict = self.failures.get(trial.id) or self.failures.get(trial.backend)
        if verdict is not None:
            return TrialRun([], None, verdict, f"made to {verdict}", launch)
        peak = self.memory(trial) if self.memory and phase == "memory" else None
        done, verdict = self.later_failures.get((trial.id, phase), (passes, None))
        samples = [
            PassSample(self.rows(trial), {"wall_s": time, "peak_pss_bytes": peak}, {})
            for time in times[:done]
        ]
        if verdict is not None:
            return TrialRun(samples, None, verdict, f"made to {verdict} later", launch)
        digest = "v:wrong" if trial.id in self.wrong else self.digest
        found = Fingerprint(digest) if verify and digest is not None else None
        return TrialRun(samples, found, launch=launch)

    def reference(self, job, files, *, every=1, within_s=None, **_):
        began = self.clock.now
        self.references.append((job, files, every))
        if not self.started:
            self.clock.now += self.process_s
            self.started.add("process")
        self.clock.now += self.check_s * len(picked(files, every))
        if within_s is not None and self.clock.now - began > within_s:
            self.clock.now = began + within_s
            return TrialRun([], None, "hang", "too long", out_of_time=True)
        verdict = self.failures.get("reference")
        return TrialRun(
            [], None if verdict else Fingerprint(self.digest), verdict, "cannot read x.parquet"
        )

    def close(self):
        self.closed = True


@pytest.fixture
def make_fake():
    return FakeExecutor


@pytest.fixture
def dataset():
    """A dataset's fingerprint, made up."""
    return Dataset(
        data_type="logs", folder="/x/logs", files=10, bytes=5, schema="s", columns=1,
        rows_per_file=1, row_groups_per_file=1.0, codecs=[],
    )  # fmt: skip


@pytest.fixture
def data(storage):
    paths = sorted(str(path) for path in (storage / "logs").iterdir())
    return Data(paths=paths, columns=None, features=["points", "minutes"], target="started")


@pytest.fixture
def storage(tmp_path, _logs):
    """A storage with 12 small files of numbers and text, with nulls."""
    return Path(shutil.copytree(_logs, tmp_path / "storage"))


@pytest.fixture(scope="session")
def _logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("storage") / "logs"
    folder.mkdir()
    random = np.random.default_rng(1)
    for day in range(1, 13):
        frame = pd.DataFrame(
            {
                "gameDate": f"202501{day:02}",
                "player": random.choice(["ann", "bob", "cé"], 50),
                "points": random.integers(0, 40, 50),
                "minutes": np.where(random.random(50) < 0.1, np.nan, random.random(50) * 48),
                "started": random.random(50) < 0.5,
            }
        )
        frame.to_parquet(folder / f"logs_202501{day:02}.parquet")
    return folder.parent


QUICK = ("--backends", "original", "--files", "2", "--repeats", "1", "--passes", "1")


@pytest.fixture(scope="session")
def _tuned(made_once, _logs):
    """What the command `tune` leaves, run once in a process of its own."""

    def run(folder):
        shutil.copytree(_logs, folder / "storage")
        done = subprocess.run(
            [
                sys.executable, "-m", "feedrate.harness", "tune", folder / "storage", *QUICK,
                "--budget", "300s", "--results", folder / "r.jsonl", "--profile", folder / "p.json",
            ],
            capture_output=True, text=True, check=True,
            env={**os.environ, "FEEDRATE_HOME": str(folder / "home")},
        )  # fmt: skip
        (folder / "out").write_text(done.stdout)
        (folder / "err").write_text(done.stderr)

    return made_once("tuned", run)


@pytest.fixture
def tuned(_tuned, storage):
    """The results and the profile of a small tune of `storage`, and what it printed."""
    files = [storage.with_name(name) for name in ("r.jsonl", "p.json", "out", "err")]
    for file in files:
        text = (_tuned / file.name).read_text()
        file.write_text(text.replace(str(_tuned), str(storage.parent)))
    results, profile, out, err = files
    return results, profile, out.read_text(), err.read_text()


@pytest.fixture
def run(tmp_path, dataset):
    """Tune or screen by a fake, or go on where a journal ends; all samples."""

    def measure(executor, planned, verb="tune", known=(), path=tmp_path / "r.jsonl", **fields):
        spec = Spec(**{"budget": None, **fields})
        if path.exists():
            journal, results = Journal.resume(path)
            known = results.samples
        else:
            header = Header(spec={}, environment=fingerprint(), dataset=dataset)
            journal = Journal.create(path, header)
        with journal:
            scheduler = Scheduler(
                spec, planned, executor, journal, known=known, clock=executor.clock
            )
            Search(scheduler).run() if verb == "tune" else scheduler.screen()
        return read_results(path).samples

    return measure


BACKEND = """
import os, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "tinyload-1.0-py3-none-any.whl"
    info = "tinyload-1.0.dist-info"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.write("tinyload.py")
        requires = open("requires.txt").read() if os.path.exists("requires.txt") else ""
        text = "Metadata-Version: 2.1\\nName: tinyload\\nVersion: 1.0\\n" + requires
        wheel.writestr(info + "/METADATA", text)
        tag = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr(info + "/WHEEL", tag)
        wheel.writestr(info + "/RECORD", "")
    return name
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tinyload"
version = "1.0"
"""
LOADER = """
import pandas as pd

def load(settings, files, columns, target, job):
    frames = [pd.read_parquet(file, columns=columns) for file in files]
    return pd.concat(frames, ignore_index=True)CHANGE
"""


@pytest.fixture
def loader_code():
    """A module with a loader, in which CHANGE is to be replaced."""
    return LOADER


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of a loader; `commit` writes files and commits them."""
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FEEDRATE_HOME", str(tmp_path / "home"))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    _git("init", "-q", "-b", "main")

    def commit(**files):
        usual = {"backend.py": BACKEND, "pyproject.toml": PROJECT}
        usual["tinyload.py"] = LOADER.replace("CHANGE", files.pop("change", ""))
        for name, text in {**usual, **files}.items():
            (folder / name).write_text(text)
        _git("add", "-A")
        _git("commit", "-q", "--allow-empty", "-m", "change")
        return _git("rev-parse", "HEAD")

    commit.git = _git
    return commit


@pytest.fixture
def quick_build(monkeypatch):
    """Builds that copy a project's module, where pip would take four seconds."""

    def install(project, place, _):
        packages = place / PACKAGES
        information = packages / "tinyload-1.0.dist-info"
        information.mkdir(parents=True)
        shutil.copy(project / "tinyload.py", packages)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: tinyload\nVersion: 1\n")

    monkeypatch.setattr(revisions, "install", install)


def _git(*arguments):
    who = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def misbehave(tmp_path, monkeypatch):
    """Let every child run some code before the first timed pass, or another method."""

    def install(code, what="visit"):
        (tmp_path / "sitecustomize.py").write_text(
            textwrap.dedent("""
            import sys
            if {"feedrate.harness.child", "feedrate.harness.fork_server"} & set(sys.orig_argv):
                import feedrate.harness.trial.frame_work as work
                real = work.FrameWork.WHAT
                def instead(self):
                    if len(self._paths) > 2:
                        misbehave()
                    return real(self)
                work.FrameWork.WHAT = instead
                def misbehave():
            """).replace("WHAT", what)
            + textwrap.indent(textwrap.dedent(code), " " * 8)
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return install
