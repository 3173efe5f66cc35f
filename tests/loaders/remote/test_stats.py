"""A loader's figures have the requests that its process has made since."""

import pickle

import pandas as pd
from feedrate.loaders import OptimizedHistoricalDataLoader, ParquetStorage

FRAME = pd.DataFrame({"x": range(50)})


def test_requests_count_from_the_making_of_a_loader(url):
    storage = ParquetStorage(url)
    storage.save(FRAME, "logs", "20250101")
    loader = OptimizedHistoricalDataLoader(storage, enable_cache=False)
    none = {"requests": 0, "bytes": 0, "retries": 0, "throttled_s": 0.0}
    assert loader.stats()["requests"] == none
    files = storage.files("logs")
    loader.load_files(files)
    assert loader.stats()["requests"] == {**none, "requests": 2, "bytes": files[0].size}
    copied = pickle.loads(pickle.dumps(loader))  # noqa: S301 - our own
    assert copied.stats()["requests"] == none


def test_files_take_no_requests(tmp_path):
    storage = ParquetStorage(tmp_path)
    storage.save(FRAME, "logs", "20250101")
    loader = OptimizedHistoricalDataLoader(storage)
    loader.load_files(storage.files("logs"))
    assert set(loader.stats()["requests"].values()) == {0}
