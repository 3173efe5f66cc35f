"""Share the launches of a sweep among the nodes of one kind.

It knows neither clocks nor Ray, so that a simulation runs the same code (`benchmarks/cluster.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..plan.spec import Trial


@dataclass(frozen=True)
class Launch:
    """A trial in a round."""

    trial: Trial
    turn: int


@dataclass(eq=False)
class _Group:
    """Launches whose times are compared: one round of one job on equally many files."""

    waiting: list[Launch]
    node: str | None = None
    """The node that it began on."""


@dataclass
class Schedule:
    """Decides which launch a free node runs next; safe to use from several threads.

    Speedups are paired by round, and even nodes of one kind differ a little. So the launches of a
    round that are compared with each other stay on one node, as long as there are enough such
    groups for all nodes; then free nodes help with the group that has most left.
    """

    groups: list[_Group]
    running: dict[str, tuple[_Group, Launch]] = field(default_factory=dict)
    """By node."""
    _lock: threading.Condition = field(default_factory=threading.Condition)
    _is_aborted: bool = False

    @classmethod
    def of(cls, rounds: Iterable[Sequence[Trial]]) -> Schedule:
        """The schedule of some rounds, each a list of trials in the order to run them."""
        groups: dict[tuple[int, str, int], _Group] = {}
        for turn, trials in enumerate(rounds):
            for trial in trials:
                group = groups.setdefault((turn, trial.job, trial.files), _Group([]))
                group.waiting.append(Launch(trial, turn))
        return cls(list(groups.values()))

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to run, nor running."""
        return not self.running and not any(group.waiting for group in self.groups)

    def take(self, node: str, *, wait: bool = False) -> Launch | None:
        """The next launch of a free node; None if there is none left to begin.

        Args:
            node: its id.
            wait: also wait for launches that others may lose.
        """
        with self._lock:
            group = self._group_of(node)
            while wait and group is None and self.running and not self._is_aborted:
                self._lock.wait()
                group = self._group_of(node)
            if group is None or self._is_aborted:
                return None
            launch = group.waiting.pop(0)
            self.running[node] = group, launch
            return launch

    def done(self, node: str) -> None:
        """A node has finished its launch."""
        with self._lock:
            del self.running[node]
            self._lock.notify_all()

    def lost(self, node: str) -> None:
        """A node is gone: others run what it ran, and continue its group."""
        with self._lock:
            group, launch = self.running.pop(node)
            group.waiting.insert(0, launch)
            for one in self.groups:
                if one.node == node:
                    one.node = None
            self._lock.notify_all()

    def abort(self) -> None:
        """Give no node another launch."""
        with self._lock:
            self._is_aborted = True
            self._lock.notify_all()

    def _group_of(self, node: str) -> _Group | None:
        open_ = [group for group in self.groups if group.waiting]
        own = next((group for group in open_ if group.node == node), None)
        if own is not None:
            return own
        unbegun = next((group for group in open_ if group.node is None), None)
        if unbegun is not None:
            unbegun.node = node
            return unbegun
        return max(open_, key=lambda group: len(group.waiting), default=None)
