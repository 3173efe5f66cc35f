"""Leave out what cannot even be imported on a base install; `tox -e base` runs the rest."""

from feedrate.loaders.machine import is_installed

NEED_TORCH = ["test_pytorch_datasets.py", "test_pytorch_training.py"]

collect_ignore = [] if is_installed("torch") else NEED_TORCH
