"""The machine that trials run on, as planning needs it; on a cluster it is not this one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import msgspec

from ...loaders.base.errors import InputError, not_installed
from ...loaders.base.machine import Machine, fingerprint
from ...loaders.choosing.backend import Backend
from ...loaders.choosing.registry import AUTO_ORDER, backend_names, find_backend
from ..system.memory import memory_allowance

ALIKE_MEMORY = 0.02  # machines of one kind differ by the memory that their kernels keep


@dataclass(frozen=True)
class Host:
    """A machine that trials run on.

    Attributes:
        machine: its fingerprint, for which a profile holds.
        memory: bytes that the processes of a trial may take there.
        backends: names of the built-in backends that are installed there.
        name: what users call it; empty for this machine.
    """

    machine: Machine
    memory: int
    backends: frozenset[str]
    name: str = dataclasses.field(default="", compare=False)

    @classmethod
    def here(cls) -> Self:
        """This machine."""
        names = (name for name in backend_names() if find_backend(name).installed)
        return cls(fingerprint(), memory_allowance(), frozenset(names))

    def backend(self, name: str) -> Backend:
        """The backend of a name.

        Raises:
            InputError: there is no such backend.
            MissingBackendError: a built-in one that is not installed there.
        """
        if name == "auto":
            name = next(known for known in AUTO_ORDER if known in self.backends)
        backend = find_backend(name, named_by_caller=True)
        if not backend.is_custom and name not in self.backends:
            if backend.module is None:
                raise InputError(f"there is no backend {name} on {self.name or 'this machine'}")
            raise not_installed(name, str(backend.module), str(backend.extra), self.name)
        return backend


def are_alike(one: Machine, other: Machine) -> bool:
    """Whether what was measured on one machine holds for another.

    They may differ a little in memory, and in packages that only one of them has recorded.
    """
    first, second = one.memory_bytes, other.memory_bytes
    near = abs(first - second) <= ALIKE_MEMORY * max(first, second)
    return near and _compared(one, other) == _compared(other, one)


def _compared(machine: Machine, other: Machine) -> Machine:
    shared = {name: version for name, version in machine.versions.items() if name in other.versions}
    return msgspec.structs.replace(machine, memory_bytes=0, versions=shared)
