"""Measure as one of several ranks that share this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "LOCAL_WORLD_SIZE"  # of torchrun; `loaders.base.machine.local_ranks` reads it


@contextmanager
def local_ranks(count: int) -> Iterator[None]:
    """Use the share of one of `count` ranks: of CPUs, thread pools and caches, here and below."""
    if count == 1:
        yield
        return
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
