"""Connect to a Ray cluster, and find its nodes and what they are."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import platform
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...loaders import __version__
from ...loaders.base.errors import FeedrateError, InputError
from ..plan.host import Host, are_alike
from ..system.formats import format_seconds
from . import facts as facts_module
from .agent import Agent
from .labels import Selector, matches

LOCAL = "local"
RAYS_PREFIX = 20  # signs, with the colour, in which Ray names who writes
HOW_TO_START = (
    "`ray start --head` starts one, and --ray local one of this machine for this command alone"
)
REACH_S = 10.0  # for a cluster's address to answer
LEASE_S = 60.0  # for a node to become free, or to answer

log = logging.getLogger("feedrate.harness")


class NodeLostError(FeedrateError):
    """A node died, and there is no other of its kind.

    Attributes:
        node: its name.
    """

    def __init__(self, node: str, message: str) -> None:
        super().__init__(message)
        self.node = node


class _WithoutRaysLog(io.TextIOBase):
    """Standard output without the lines that Ray writes there, which go to the log.

    Ray writes there that a node died, also if its logging is off (ray 2.60).
    """

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._swallows_end = False

    def write(self, text: str) -> int:
        """Write the text, unless it is Ray's."""
        is_rays = "(raylet" in text[:RAYS_PREFIX]
        if is_rays:
            log.debug("%s", text.rstrip())
        elif not (self._swallows_end and text == "\n"):
            self._output.write(text)
        self._swallows_end = is_rays and not text.endswith("\n")
        return len(text)

    def flush(self) -> None:
        """Flush the output."""
        self._output.flush()


@dataclass
class Node:
    """A node of the cluster, whose CPUs and GPUs are all ours while it has an agent.

    Attributes:
        id: Ray's id.
        name: what users call it: its host name, with a part of the id if several share it.
        cpus: as Ray counts them; likewise `gpus`.
        agent: leads trials there.
        host: what it is.
    """

    id: str
    name: str
    cpus: float
    gpus: float
    agent: Any = None
    host: Host | None = None
    is_busy: bool = False
    """Whether its agent runs a trial."""

    def start(self) -> None:
        """Start an agent in place of an earlier one, as soon as the whole node is free."""
        self.kill()
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_restarts": 0}
        actor = ray.remote(Agent).options(**options, scheduling_strategy=on_node(self))
        self.agent = actor.remote(self.name)

    def close(self) -> None:
        """End the processes of trials; if the agent is still busy with one, also the agent."""
        if self.agent is not None and not self.is_busy:
            with contextlib.suppress(RayError):  # it may be gone, with the node
                ray.get(self.agent.close.remote(), timeout=REACH_S)
                return
        self.kill()

    def kill(self) -> None:
        """End the agent at once; its processes end with it."""
        agent, self.agent, self.is_busy = self.agent, None, False
        if agent is not None:
            with contextlib.suppress(RayError, ValueError):  # as above
                ray.kill(agent)

    @property
    def is_alive(self) -> bool:
        """Whether Ray reports it as alive."""
        return any(one["NodeID"] == self.id for one in _living())


def on_node(node: Node) -> NodeAffinitySchedulingStrategy:
    """The strategy that runs something on a node, and nowhere else."""
    return NodeAffinitySchedulingStrategy(node.id, soft=False)


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster, or start one of this machine for the address `local`.

    Args:
        address: `host:port`, `ray://host:port`, `auto`, or `local`.

    Raises:
        InputError: there is no cluster, or one with another version of Ray or Python.
    """
    if ray.is_initialized():  # as in a notebook
        joined = ray.get_runtime_context().gcs_address
        if address not in ("auto", joined):
            raise InputError(
                f"this process is in the Ray cluster {joined} already; give address='auto', or "
                f"call ray.shutdown() before you give {address}"
            )
        yield
        return
    _check_reachable(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options |= {"include_dashboard": False, "object_store_memory": 100 << 20}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(_why_not_joined(address, error)) from error
    except BaseException:  # an interrupt, while Ray starts processes
        ray.shutdown()
        raise
    finally:
        _restore(handlers)
    try:
        with contextlib.redirect_stdout(_WithoutRaysLog(sys.stdout)):
            yield
    finally:
        ray.shutdown()
        _restore(handlers)


def _why_not_joined(address: str, error: Exception) -> str:
    """Why a cluster could not be joined, and what may help."""
    if address == "auto":
        return f"this machine is in no Ray cluster. {HOW_TO_START}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        f"cannot join the Ray cluster {address}: {lines[0] if lines else type(error).__name__}. "
        f"Here are Ray {ray.__version__} and Python {platform.python_version()}, and the cluster "
        "needs the same. A cluster with tokens needs RAY_AUTH_MODE=token and its token here. From "
        "a machine that is no node of it, give ray://HOST:10001"
    )


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    """Restore handlers of signals: Ray has installed its own for SIGTERM."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if handler is not None:  # one that Python did not install
                signal.signal(number, handler)


def _check_reachable(address: str) -> None:
    """Raise `InputError` if nothing listens at an address: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in (LOCAL, "auto"):
        return
    if not host or not port.isdigit():
        raise InputError(
            f"--ray {address} is no address; give HOST:PORT of a cluster's head (6379), "
            "ray://HOST:10001, auto for the cluster of this machine, or local to start one"
        )
    try:
        socket.create_connection((host, int(port)), REACH_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster at {address}: {error}. {HOW_TO_START}") from error


def nodes_of(selectors: Sequence[Selector], known: frozenset[str] | None = None) -> list[Node]:
    """The living nodes with CPUs that match all selectors, except known ones.

    Raises:
        InputError: none are known, and none matches.
    """
    alive = [one for one in _living() if one["Resources"].get("CPU", 0) >= 1]
    chosen = [one for one in alive if matches(list(selectors), one.get("Labels", {}))]
    if not chosen and known is None:
        labels = sorted(
            {
                f"{name}={value}"
                for one in alive
                for name, value in one.get("Labels", {}).items()
                if name != "ray.io/node-id"
            }
        )
        raise InputError(
            f"--ray-labels selects none of the cluster's nodes with CPUs ({len(alive)}), whose "
            f"labels are {', '.join(labels) or '(none)'}; choose among these, or leave it out"
        )
    names = Counter(one["NodeManagerHostname"] for one in alive)
    return [
        Node(
            one["NodeID"],
            _name(one["NodeManagerHostname"], one["NodeID"], names),
            one["Resources"]["CPU"],
            one["Resources"].get("GPU", 0),
        )
        for one in chosen
        if one["NodeID"] not in (known or ())
    ]


def _living() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's annotations
    return [one for one in nodes if one["Alive"]]


def _name(host: str, node: str, names: Counter[str]) -> str:
    return host if names[host] == 1 else f"{host}/{node[:6]}"


def check_versions(nodes: Sequence[Node]) -> None:
    """Check that nodes have the same Python, Ray and feedrate as this machine.

    Raises:
        InputError: they have not; the message names the nodes and what to install.
    """
    ours = {"Python": platform.python_version(), "Ray": ray.__version__, "feedrate": __version__}
    ray.cloudpickle.register_pickle_by_value(facts_module)  # type: ignore[no-untyped-call]  # same
    problems = []
    for node, theirs, error in ask_each(nodes, facts_module.facts):
        if isinstance(error, GetTimeoutError):
            problems.append(f"{node.name} does not answer")
        elif error is not None:
            problems.append(f"{node.name} fails: {last_line(error)}")
        else:
            problems += [
                f"{node.name} has {name} {theirs[name] or '(none)'} instead of {version}"
                for name, version in ours.items()
                if theirs[name] != version
            ]
    if problems:
        raise InputError(
            f"{'; '.join(sorted(problems))}. All nodes need the Python of this machine, and: pip "
            f'install "feedrate[harness,ray]=={__version__}" "ray=={ray.__version__}"'
        )


def ask_each(
    nodes: Sequence[Node], function: Callable[..., Any], *arguments: Any
) -> Iterator[tuple[Node, Any, RayError | None]]:
    """Call a function on each node, beside what runs there; each node's answer, or the error.

    A node that does not answer in time has a `GetTimeoutError`.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {
        task.options(scheduling_strategy=on_node(node)).remote(*arguments): node for node in nodes
    }
    yield from _answers(asked)


def _answers(asked: Mapping[Any, Node]) -> Iterator[tuple[Node, Any, RayError | None]]:
    """The answers that come within `LEASE_S`, and an error for each other."""
    ray.wait(list(asked), num_returns=len(asked), timeout=LEASE_S)
    for answer, node in asked.items():
        try:
            yield node, ray.get(answer, timeout=0), None
        except RayError as error:
            yield node, None, error


def last_line(error: RayError) -> str:
    """What matters of an error of Ray, which has the traceback of another machine above it."""
    return str(error).strip().splitlines()[-1]


def lease(nodes: Sequence[Node], local_ranks: int) -> tuple[list[Node], list[str]]:
    """Take whole nodes for us alone; return those that were free in time, and notes on others."""
    for node in nodes:
        node.start()
    leased, notes = [], []
    for node, host, error in _answers({one.agent.host.remote(local_ranks): one for one in nodes}):
        if error is None:
            node.host = host
            leased.append(node)
            continue
        node.kill()
        why = last_line(error)
        if isinstance(error, GetTimeoutError):
            why = f"other work held its CPUs or GPUs for {format_seconds(LEASE_S)}"
        notes.append(f"{node.name} was left out: {why}")
    return leased, notes


def by_machine(nodes: Sequence[Node]) -> list[list[Node]]:
    """The nodes by kind of machine; each begins with the one that has the least memory."""
    kinds: list[list[Node]] = []
    for node in sorted(nodes, key=lambda node: host_of(node).machine.memory_bytes):
        machine = host_of(node).machine
        kind = next((kind for kind in kinds if are_alike(host_of(kind[0]).machine, machine)), None)
        if kind is None:
            kinds.append([node])
        else:
            kind.append(node)
    return kinds


def host_of(node: Node) -> Host:
    """What a node is, once it is leased."""
    if node.host is None:
        raise RuntimeError(f"{node.name} is not leased")
    return node.host
