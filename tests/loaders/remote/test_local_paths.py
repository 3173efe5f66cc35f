"""On local paths nothing of the extra `cloud` is imported, and nothing of it is needed."""

import subprocess
import sys

import pytest

PATIENCE_S = 60
SCRIPT = """
import sys
import pandas as pd

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in CLOUD and sys.argv[3] == "absent":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name.partition(".")[0] in CLOUD:
            print("imported", name)
        return None

CLOUD = {"obstore", "boto3", "botocore", "fsspec", "s3fs", "aiobotocore"}
sys.meta_path.insert(0, Absent())
from feedrate.loaders.base.errors import MissingBackendError
from feedrate.loaders.historical_loader import HistoricalDataLoader
from feedrate.loaders.optimized_historical_loader import OptimizedHistoricalDataLoader
from feedrate.loaders.remote import library
from feedrate.loaders.storage import ParquetStorage

storage = ParquetStorage(sys.argv[1])
for day in (1, 2, 3):
    storage.save(pd.DataFrame({"a": [day], "gameDate": "20250101"}), "box_scores", f"2025010{day}")
files = storage.files("box_scores")
loader = OptimizedHistoricalDataLoader(storage, sys.argv[2], 2, enable_cache="disk", profile=None)
for one in (loader, HistoricalDataLoader(storage)):
    assert one.load_files(files)["a"].tolist() == [1, 2, 3]
    assert len(one.load_files([f"file://{file}" for file in files])) == 3
    assert len(one.load_historical_player_logs("20250101", "20250201")) == 3
    assert len(one.load_historical_data("20250101", "20250102")["box_scores"]) == 2
list(loader.stream(files, ["a"]))
list(loader.batches(files, ["a"]))
assert not library.is_loaded()
found = CLOUD & {name.partition(".")[0] for name in sys.modules}
assert not found, found
if sys.argv[3] == "absent":
    try:
        ParquetStorage("s3://bucket/x").files("box_scores")
    except MissingBackendError as error:
        assert 'pip install "feedrate[cloud]"' in str(error), error
    else:
        raise AssertionError("it worked without obstore")
"""


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["present", "absent"])
def test_local_paths_import_nothing_of_the_extra(tmp_path, extra):
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "data"), "original", extra],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""
