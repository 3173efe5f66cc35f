"""Revisions of a small repository, built and run; its build needs nothing from anywhere."""

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from feedrate.harness.gate import revisions
from feedrate.harness.gate.revisions import BuildError, build, is_dirty, ready_made
from feedrate.harness.gate.wheels import unmet_requirements
from feedrate.loaders.base.errors import InputError


def runs(revision, code):
    done = subprocess.run(
        [revision.python.executable, "-c", code],
        env=revision.python.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.slow
def test_each_revision_runs_its_own_code_in_this_environment(repository):
    repository(change="  # one")
    first = repository.git("rev-parse", "HEAD")
    repository(change="  # two")
    shows = "import tinyload, inspect, feedrate.loaders; print(inspect.getsource(tinyload.load))"
    assert "# one" in runs(build("HEAD~1"), shows)
    assert "# two" in runs(build("main"), shows)
    assert build(first).commit == first
    assert repository.git("worktree", "list").count("\n") == 0  # no trace
    assert repository.git("status", "--porcelain") == ""


@pytest.mark.usefixtures("quick_build")
def test_a_revision_of_a_shallow_clone_that_no_branch_has_is_built(
    repository, monkeypatch, tmp_path
):
    # `pip wheel git+file://...` never ends here (git 2.39): its clone fetches from itself.
    repository()
    base = repository(change="  # fetched")
    repository(change="  # checked out")
    shallow = tmp_path / "a clone of 100% @ once"
    repository.git("clone", "-q", "--depth=1", Path.cwd().as_uri(), str(shallow))
    monkeypatch.chdir(shallow)
    repository.git("checkout", "-q", "--detach")
    repository.git("branch", "-q", "-D", "main")
    repository.git("fetch", "-q", "--depth=1", "origin", base)
    shows = "import tinyload, inspect; print(inspect.getsource(tinyload.load))"
    assert "# fetched" in runs(build("FETCH_HEAD"), shows)


@pytest.mark.usefixtures("quick_build")
def test_what_was_built_is_taken_from_the_cache(repository, monkeypatch):
    repository()
    build("HEAD")
    monkeypatch.setattr(revisions, "install", lambda *_: pytest.fail("built again"))
    build("HEAD")


@pytest.mark.usefixtures("quick_build")
def test_the_oldest_revisions_are_forgotten(repository, monkeypatch, tmp_path):
    monkeypatch.setattr(revisions, "KEPT", 2)
    monkeypatch.setattr(revisions, "LATELY_S", -1.0)
    for number in range(3):
        repository(change=f"  # {number}")
        build("HEAD")
        time.sleep(0.01)  # the clock of the file system is coarse
    kept = {path.name[:12] for path in (tmp_path / "home" / "cache" / "gate").iterdir()}
    assert kept == {repository.git("rev-parse", ref)[:12] for ref in ("HEAD", "HEAD~1")}


@pytest.mark.usefixtures("quick_build")
def test_what_was_used_lately_is_kept_however_many_there_are(repository, monkeypatch, tmp_path):
    monkeypatch.setattr(revisions, "KEPT", 1)
    for number in range(3):
        repository(change=f"  # {number}")
        build("HEAD")
    assert len(list((tmp_path / "home" / "cache" / "gate").iterdir())) == 3


@pytest.mark.usefixtures("quick_build")
def test_a_build_that_was_killed_is_made_again(repository):
    repository()
    packages = Path(build("HEAD").python.path[0])
    (packages.parent / "complete").unlink()
    (packages / "tinyload.py").unlink()
    assert "load" in runs(build("HEAD"), "import tinyload; print(dir(tinyload))")


@pytest.mark.parametrize(
    ("ref", "told"), [("nowhere", "no revision 'nowhere'"), ("--all", "no revision '--all'")]
)
def test_a_revision_that_is_not_there_is_named(repository, ref, told):
    repository()
    with pytest.raises(InputError, match=told):
        build(ref)


def test_a_folder_without_git_or_project_says_what_else_there_is(tmp_path, repository, monkeypatch):
    repository()
    repository.git("rm", "-q", "pyproject.toml")
    with pytest.raises(InputError, match="--base-python"):
        build("HEAD")
    outside = tmp_path / "outside"
    outside.mkdir()
    monkeypatch.chdir(outside)
    with pytest.raises(InputError, match=r"git finds no repository at .*not a git repository"):
        build("HEAD")


def test_a_revision_that_does_not_build_shows_the_builds_last_lines(repository, tmp_path):
    repository(**{"backend.py": "raise RuntimeError('no wheel today')"})
    with pytest.raises(BuildError, match=r"(?s)does not build:.*no wheel today"):
        build("HEAD")
    assert not list((tmp_path / "home" / "cache" / "gate").iterdir())
    assert repository.git("worktree", "list").count("\n") == 0


def test_what_a_revision_requires_and_is_not_here_is_found(tmp_path, monkeypatch):
    def written(folder, name, requires):
        info = tmp_path / folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        lines = "".join(f"Requires-Dist: {one}\n" for one in requires)
        extras = "Provides-Extra: x\nProvides-Extra: y\n"
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{extras}{lines}"
        (info / "METADATA").write_text(text)

    always = ["numpy>=1", "numpy<1", "no-such>=2", 'numpy<1; python_version < "3"']
    # Of what is installed here, all that x brings is there, and not all that y does.
    written("here", "My.Package", ['msgspec; extra == "x"', 'gone; extra == "y"'])
    new = ['added; extra == "x"', 'msgspec; extra == "x"', 'more; extra == "y"', "my-package[x]"]
    written("new", "my_package", [*always, *new])
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    unmet = unmet_requirements(tmp_path / "new")
    assert [one.partition(";")[0].strip() for one in unmet] == ["numpy<1", "no-such>=2", "added"]


def test_requirements_that_are_met_need_no_environment(repository):
    repository(**{"requires.txt": "Requires-Dist: numpy>=1\n"})
    assert build("HEAD").python.executable == sys.executable


@pytest.mark.slow
def test_other_requirements_get_an_environment_that_sees_what_is_here(
    repository, monkeypatch, tmp_path
):
    links = tmp_path / "links"
    links.mkdir()
    with zipfile.ZipFile(links / "extra_thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("extra_thing.py", "answer = 42\n")
        info = "extra_thing-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: extra-thing\nVersion: 1\n")
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tag)
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    repository(**{"requires.txt": "Requires-Dist: extra-thing>=1\n"})
    built = build("HEAD")
    assert built.python.executable != sys.executable
    code = "import extra_thing, numpy, tinyload, feedrate.loaders; print(extra_thing.answer)"
    assert runs(built, code) == "42"
    repository(**{"requires.txt": "Requires-Dist: no-such-thing>=1\n"})
    with pytest.raises(BuildError, match=r"cannot be installed:(?s:.*)no-such-thing"):
        build("HEAD")


@pytest.mark.usefixtures("quick_build")
def test_a_project_in_a_subfolder_is_built_from_there(repository, tmp_path):
    repository()
    folder = tmp_path / "repository" / "part" / "inner"
    folder.mkdir(parents=True)
    for name in ("pyproject.toml", "backend.py", "tinyload.py"):
        (folder.parent / name).write_text((tmp_path / "repository" / name).read_text())
    repository.git("rm", "-q", "pyproject.toml")
    repository.git("add", "-A")
    repository.git("commit", "-q", "-m", "moved")
    assert "def load" in runs(
        build("HEAD", folder), "import tinyload, inspect; print(inspect.getsource(tinyload.load))"
    )


def test_changes_that_are_not_committed_are_seen(repository):
    repository()
    assert not is_dirty()
    Path("tinyload.py").write_text("# other")
    assert is_dirty()


def test_an_interpreter_without_feedrate_is_refused(tmp_path):
    assert str(ready_made(sys.executable)) == sys.executable
    bare = tmp_path / "bare"
    bare.write_text("#!/bin/sh\nexit 3\n")
    bare.chmod(0o755)
    for wrong in (bare, tmp_path / "none"):
        with pytest.raises(BuildError, match="cannot be used"):
            ready_made(str(wrong))


@pytest.mark.usefixtures("quick_build")
def test_what_a_killed_gate_left_is_removed_by_the_next(repository, monkeypatch, tmp_path):
    repository()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [tmp_path / f"feedrate-tree-{process}-x" for process in (dead.pid, os.getpid())]
    for folder in left:
        repository.git("worktree", "add", "-q", "--detach", str(folder / "tree"), "HEAD")
    build("HEAD")
    assert [folder.exists() for folder in left] == [False, True]  # one is of a gate at work
    assert repository.git("worktree", "list").count("\n") == 1
