"""Consumers of batches: stand-ins for a training step while loading is measured."""

from __future__ import annotations

import time
from typing import Any

from ...loaders.base.errors import InputError, MissingBackendError
from ..system.units import parse_duration
from .consumption import Step, parts

TORCH_MLP = "torch-mlp"
HIDDEN = 256  # features of each hidden layer


def check_consumer(text: str) -> None:
    """Raise `InputError` unless `text` is a duration such as `5ms`, or `torch-mlp`."""
    if text != TORCH_MLP:
        try:
            _ = parse_duration(text, "consumer")
        except InputError as error:
            raise InputError(
                f"consumer is {text!r}; it must be {TORCH_MLP!r} or the time of a step, such as "
                "'5ms'"
            ) from error


def make_step(text: str) -> Step:
    """Return a training step: `torch-mlp` trains a small network on the CPU, a duration waits.

    Waiting takes no CPU, as if a GPU computed; `torch-mlp` competes with the loader for CPUs.

    Raises:
        MissingBackendError: torch is needed but not installed.
    """
    if text == TORCH_MLP:
        return _TorchMlp()
    seconds = parse_duration(text, "consumer")
    return lambda _: time.sleep(seconds)


class _TorchMlp:
    """SGD steps on a perceptron of two hidden layers; the default target is the features' mean."""

    def __init__(self) -> None:
        try:
            import torch
        except ImportError as error:
            raise MissingBackendError(
                f"the consumer {TORCH_MLP!r} needs torch: pip install 'feedrate[torch]'"
            ) from error
        self._torch = torch
        self._model: Any = None
        self._optimizer: Any = None

    def __call__(self, batch: Any) -> None:
        torch = self._torch
        x, *rest = (self._tensor(part) for part in parts(batch))
        y = rest[0] if rest else x.mean(dim=1)
        if self._model is None:
            self._model = torch.nn.Sequential(
                torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.ReLU(),
                torch.nn.Linear(HIDDEN, HIDDEN), torch.nn.ReLU(),
                torch.nn.Linear(HIDDEN, 1 if y.ndim == 1 else y.shape[1]),
            )  # fmt: skip
            self._optimizer = torch.optim.SGD(self._model.parameters(), lr=1e-6)
        self._optimizer.zero_grad()
        prediction = self._model(x)
        if y.ndim == 1:
            prediction = prediction.squeeze(-1)
        torch.nn.functional.mse_loss(prediction, y).backward()
        self._optimizer.step()

    def _tensor(self, part: Any) -> Any:
        """Convert a tensor of torch or TensorFlow, or a numpy array, to a float torch tensor."""
        torch = self._torch
        if not isinstance(part, torch.Tensor):
            part = torch.from_numpy(part.numpy() if hasattr(part, "numpy") else part)
        return part.float()
