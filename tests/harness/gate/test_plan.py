"""What a gate is about to measure: sizes of controls, passes, and processes that are alike."""

import pytest
from feedrate.harness.gate import verb as gate_verb
from feedrate.harness.gate.plan import CONTROL_FILES, CONTROL_S, GatePlan
from feedrate.harness.plan.spec import Spec
from feedrate.harness.run.child_executor import ChildExecutor
from feedrate.harness.run.scheduler import NullSink, Scheduler
from feedrate.harness.trial.protocol import Imports

SPEC = """
[[cells]]
backend = "pytorch"
[[cells]]
name = "control"
backend = "original"
control = true
"""


@pytest.fixture
def plan(storage, tmp_path):
    """A gate of one cell and a control, on 12 files; `more` ends the control's table."""

    def make(more=""):
        path = tmp_path / "gate.toml"
        path.write_text(SPEC + more)
        return GatePlan.open(storage, path, None, {})

    return make


def files_of(plan):
    return [cell.trial.files for cell in plan.cells]


@pytest.mark.parametrize(
    ("file_s", "files"), [(CONTROL_S / 10, 10), (10.0, CONTROL_FILES), (0.0001, 12)]
)
def test_a_control_takes_as_many_files_as_last_long_enough_to_be_timed(
    make_fake, plan, file_s, files
):
    fake = make_fake(lambda trial: (file_s * trial.files,) * 2)
    small = plan().with_small_controls(fake)
    assert files_of(small) == [12, files]
    assert [trial.backend for trial, *_ in fake.runs] == ["original"]


def test_a_control_whose_files_are_given_keeps_them(make_fake, plan):
    fake = make_fake(lambda _: (1.0, 1.0))
    assert files_of(plan("files = 11").with_small_controls(fake)) == [12, 11]
    assert fake.runs == []


def test_a_control_that_cannot_run_keeps_its_files_so_that_the_gate_says_why(make_fake, plan):
    fake = make_fake(lambda _: (1.0, 1.0), failures={"original": "error"})
    assert files_of(plan().with_small_controls(fake)) == [12, 12]


def test_against_earlier_results_a_control_takes_as_many_files_as_it_had_there(make_fake, plan):
    fake = make_fake(lambda trial: (0.015 * trial.files,) * 2)
    small = plan().with_small_controls(fake)
    trials = [cell.trial for cell in small.cells]
    scheduler = Scheduler(Spec(budget=None), trials, fake, NullSink(), clock=fake.clock)
    scheduler.screen()
    assert files_of(plan().with_controls_of(scheduler.samples)) == files_of(small) == [12, 10]
    assert files_of(plan().with_controls_of([])) == [12, 12]


def test_the_original_as_a_control_has_one_pass_a_launch(plan):
    mine = plan()
    assert [mine.passes(cell) for cell in mine.cells] == [2, 1]


def test_launches_are_forked_on_both_sides_or_on_neither(data, plan):
    cell = plan().cells[0]
    executors = {arm: ChildExecutor(data, timeout_s=60) for arm in ("base", "head")}
    try:
        assert gate_verb._fork_alike(executors, [cell.trial]) == []
        executors["head"]._launcher.give_up(Imports(), "an older revision cannot")
        (told,) = gate_verb._fork_alike(executors, [cell.trial])
        assert told.endswith("new processes, not forked: head: an older revision cannot")
        assert executors["base"].why_not_forked(cell.trial)
        assert not executors["base"]._launcher._servers
    finally:
        for one in executors.values():
            one.close()
