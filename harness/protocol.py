"""What the harness and its child processes say to each other: JSON, one message a line."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..loaders.profile import Job
from ..loaders.settings import LoaderSettings
from .workload import Data


class OpenData(msgspec.Struct, frozen=True, tag="data"):
    """To the child, first: the files and columns of the sweep."""

    data: Data


class RunTrial(msgspec.Struct, frozen=True, kw_only=True, tag="trial"):
    """To the child: prepare a trial. It answers `Ready`, then each `Go` with a `PassDone`."""

    job: Job
    settings: LoaderSettings
    files: int
    passes: int
    verify: bool
    """Whether to finish with an untimed pass for the fingerprint."""
    transfer: bool
    """Whether to measure the transfer to a GPU after the passes."""


class Reference(msgspec.Struct, frozen=True, kw_only=True, tag="reference"):
    """To the child: the fingerprint of the original's rows. It answers `Done`."""

    job: Job
    files: int
    ordered: bool


class Go(msgspec.Struct, frozen=True, tag="go"):
    """To the child: start the next pass."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """From the child: everything is imported and prepared."""


class PassDone(msgspec.Struct, frozen=True, kw_only=True, tag="pass"):
    """From the child: one pass. What was delivered is held until the next `Go`."""

    rows: int
    metrics: dict[str, float | None]
    reasons: dict[str, str]


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """From the child: the trial is over."""

    fingerprint: str | None
    metrics: dict[str, float | None] = {}
    """What was measured once for the trial."""
    reasons: dict[str, str] = {}


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """From the child: the loader raised; the child lives on."""

    verdict: Literal["error", "out-of-memory", "shm-full"]
    message: str
    traceback: str


ToChild = OpenData | RunTrial | Reference | Go
FromChild = Ready | PassDone | Done | Failed
