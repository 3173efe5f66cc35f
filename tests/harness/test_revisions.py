"""Revisions of a small repository, built and run; its build needs nothing from anywhere."""

import subprocess
import sys
from pathlib import Path

import pytest
from feedrate.harness import revisions
from feedrate.harness.revisions import BuildError, build, is_dirty, ready_made
from feedrate.loaders.errors import InputError


def runs(revision, code):
    done = subprocess.run(
        [revision.python.executable, "-c", code],
        env=revision.python.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


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


def test_what_was_built_is_taken_from_the_cache(repository, monkeypatch):
    repository()
    build("HEAD")
    monkeypatch.setattr(revisions, "_install", lambda *_: pytest.fail("built again"))
    build("HEAD")


def test_the_oldest_revisions_are_forgotten(repository, monkeypatch, tmp_path):
    monkeypatch.setattr(revisions, "KEPT", 2)
    monkeypatch.setattr(revisions, "LATELY_S", -1.0)
    for number in range(3):
        repository(change=f"  # {number}")
        build("HEAD")
    assert len(list((tmp_path / "home" / "cache" / "gate").iterdir())) == 2


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
    with pytest.raises(InputError, match="in no git repository"):
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
    unmet = revisions._unmet(tmp_path / "new")
    assert [one.partition(";")[0].strip() for one in unmet] == ["numpy<1", "no-such>=2", "added"]


def test_requirements_that_are_met_need_no_environment(repository):
    repository(**{"requires.txt": "Requires-Dist: numpy>=1\n"})
    assert build("HEAD").python.executable == sys.executable


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
