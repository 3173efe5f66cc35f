"""The machine that trials run on, as planning needs it; on a cluster it is not this one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

from ...loaders.base.errors import not_installed
from ...loaders.base.machine import Machine, fingerprint
from ...loaders.choosing.backend import Backend
from ...loaders.choosing.registry import AUTO_ORDER, backend_names, find_backend
from ..system.memory import memory_allowance


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
            raise not_installed(name, str(backend.module), str(backend.extra), self.name)
        return backend
