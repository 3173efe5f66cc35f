"""Which node runs which launch of a sweep."""

import threading
import time

import pytest
from feedrate.harness.cluster.schedule import Schedule
from feedrate.harness.cluster.sweep import screen_on
from feedrate.harness.plan.spec import Spec, plan
from feedrate.harness.run.scheduler import NullSink, Scheduler


def small(repeats=2, files=(4, 2)):
    return Spec(
        files=list(files), backends=["original", "pytorch"], workers=[0, 1, 2], repeats=repeats
    )


def schedule_of(spec):
    trials = plan(spec, 4)
    return Schedule.of([trials] * spec.repeats), trials


def served(schedule, nodes):
    """The launches of each node, as nodes take turns."""
    taken = {node: [] for node in nodes}
    while not schedule.is_done:
        for node in nodes:
            launch = schedule.take(node)
            if launch is not None:
                taken[node].append(launch)
                schedule.done(node)
    return taken


def test_each_launch_runs_once_on_some_node():
    schedule, trials = schedule_of(small())
    taken = [launch for launches in served(schedule, "abc").values() for launch in launches]
    assert sorted((one.turn, one.trial.id) for one in taken) == sorted(
        (turn, trial.id) for turn in range(2) for trial in trials
    )


def test_what_is_compared_in_a_round_stays_on_one_node_while_there_are_enough_groups():
    schedule, _ = schedule_of(small())  # 2 rounds of 2 numbers of files: 4 groups
    taken = served(schedule, "abcd")
    for launches in taken.values():
        first = launches[0]
        group = [
            one
            for one in launches
            if (one.turn, one.trial.files) == (first.turn, first.trial.files)
        ]
        assert len(group) == len(launches)


def test_free_nodes_help_with_what_is_left():
    schedule, trials = schedule_of(small(repeats=1, files=(4,)))
    taken = served(schedule, "ab")
    assert {len(launches) for launches in taken.values()} <= {
        len(trials) // 2,
        len(trials) - len(trials) // 2,
    }


def test_the_launch_and_the_rest_of_a_lost_node_are_run_by_others():
    schedule, trials = schedule_of(small(repeats=1, files=(4,)))
    lost = schedule.take("a")
    schedule.lost("a")
    taken = served(schedule, "b")["b"]
    assert taken[0] == lost
    assert len(taken) == len(trials)


class FakeNode:
    """An executor of a node that counts what runs at once."""

    def __init__(self, fake, node, kind, running):
        self.fake, self.kind, self.running = fake, kind, running
        self.node = type("Node", (), {"id": node, "name": node})()

    def run(self, trial, phase, **options):
        with self.running.on(self.node.id):
            time.sleep(0.001)
            return self.fake.run(trial, phase, **options)

    def reference(self, *arguments, **options):
        return self.fake.reference(*arguments, **options)

    def close(self):
        pass


class Running:
    """How many trials ran at once, in all and on one node."""

    def __init__(self):
        self.now, self.most, self.most_on_a_node = [], 0, 0
        self.lock = threading.Lock()

    def on(self, node):
        running = self

        class Context:
            def __enter__(self):
                with running.lock:
                    running.now.append(node)
                    running.most = max(running.most, len(running.now))
                    running.most_on_a_node = max(running.most_on_a_node, running.now.count(node))

            def __exit__(self, *_):
                with running.lock:
                    running.now.remove(node)

        return Context()


def test_nodes_measure_at_the_same_time_one_trial_each(make_fake):
    spec, running = small(), Running()
    trials = plan(spec, 4)
    fake = make_fake(lambda _: (1.0, 0.5))
    scheduler = Scheduler(spec, trials, fake, NullSink(), clock=fake.clock)
    kind = type("Kind", (), {"notes": []})()
    screen_on(scheduler, [FakeNode(fake, node, kind, running) for node in "abc"])
    assert kind.notes == []
    assert running.most == 3
    assert running.most_on_a_node == 1
    done = {(one.trial, one.round) for one in scheduler.samples}
    assert done == {(trial.id, turn) for trial in trials for turn in range(2)}


def test_an_error_on_one_node_ends_the_sweep(make_fake):
    spec = small()
    trials = plan(spec, 4)
    fake = make_fake(lambda _: (1.0, 0.5))
    scheduler = Scheduler(spec, trials, fake, NullSink(), clock=fake.clock)
    stopped = []
    kind = type("Kind", (), {"stop": lambda _: stopped.append(True)})()
    nodes = [FakeNode(fake, node, kind, Running()) for node in "ab"]

    def fail(*_, **__):
        raise ValueError("ours")

    nodes[1].run = fail
    with pytest.raises(ValueError, match="ours"):
        screen_on(scheduler, nodes)
    assert stopped
