"""Leave out what cannot be imported without torch, as on a base install.

And what the tests of the frame job share.
"""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders.base.machine import is_installed
from feedrate.loaders.base.schedule import ThreadScheduler
from feedrate.loaders.frames.reader import FrameReader

NEED_TORCH = ["test_pytorch_*.py", "test_torch_*.py"]

collect_ignore_glob = [] if is_installed("torch") else NEED_TORCH


@pytest.fixture
def files(tmp_path):
    """Three files of 100 integers each: 0 to 99, 100 to 199, 200 to 299."""
    paths = [str(tmp_path / f"{number}.parquet") for number in range(3)]
    for number, path in enumerate(paths):
        pq.write_table(pa.table({"a": range(100 * number, 100 * number + 100)}), path)
    return paths


@pytest.fixture(scope="session")
def load():
    """A function that loads files by a new reader."""

    def load(cache, paths, columns=None, workers=0, **options):
        reader = FrameReader(ThreadScheduler(workers), cache=cache, **options)
        return reader.load(paths, columns)

    return load
