"""Run the trials of a sweep on all nodes of one kind at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from ..run.scheduler import Scheduler
from .executor import NodeExecutor
from .nodes import NodeLostError
from .schedule import Schedule


def screen_on(scheduler: Scheduler, executors: Sequence[NodeExecutor]) -> None:
    """Run every trial once per round; each node runs one at a time.

    Raises:
        NodeLostError: the last node died, and work is left.
    """
    schedule = Schedule.of(scheduler.rounds())
    with ThreadPoolExecutor(len(executors)) as pool:
        futures = [pool.submit(_serve, scheduler, schedule, one) for one in executors]
        try:
            ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
            errors = [error for one in ended if (error := one.result()) is not None]
        except BaseException:
            schedule.abort()
            executors[0].kind.stop()  # so that the threads end
            raise
    if not schedule.is_done:
        raise errors[-1]
    executors[0].kind.notes += [
        f"{error.node} died; other nodes ran its trials" for error in errors
    ]


def _serve(
    scheduler: Scheduler, schedule: Schedule, executor: NodeExecutor
) -> NodeLostError | None:
    """Run launches on a node until none is left, or it is lost."""
    # Its place in the schedule, which it keeps if another node comes in its stead.
    place = executor.node.id
    while (launch := schedule.take(place, wait=True)) is not None:
        try:
            scheduler.measure_new(launch.trial, "confirming", launch.turn, executor)
        except NodeLostError as error:
            schedule.lost(place)
            return error
        schedule.done(place)
    return None
