import doctest
import subprocess
import sys
import types
from collections import Counter

import numpy as np
import pytest
from feedrate.harness.in_process import InProcessExecutor
from feedrate.harness.plan.spec import make_trial
from feedrate.harness.trial import frame_work, gpu, session
from feedrate.harness.trial.batch_work import BatchWork
from feedrate.harness.trial.gpu import H2D_METRICS
from feedrate.harness.trial.session import MAX_NOTES, notes
from feedrate.harness.trial.work import Data
from feedrate.harness.trial.workload import pipeline
from feedrate.loaders.base.errors import FeedrateWarning
from feedrate.loaders.base.settings import LoaderSettings
from msgspec import structs

PLAIN = LoaderSettings(backend="pytorch", num_workers=0)


class Epochs:
    """Three batches each time, and how often it was asked."""

    def __init__(self, make):
        self.make, self.begun = make, 0

    def __iter__(self):
        self.begun += 1
        return (self.make() for _ in range(3))


def visited(make):
    epochs = Epochs(make)
    work = BatchWork(lambda: epochs, PLAIN)
    assert work.visit().rows == 12
    return work, epochs


class FromTensorFlow:
    __module__ = "tensorflow.python.framework.ops"

    def __len__(self):
        return 4


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: np.zeros((4, 2)), "the batches are numpy arrays"),
        (lambda: (np.zeros((4, 2)), np.zeros(4)), "the batches are numpy arrays"),
        (lambda: (FromTensorFlow(), FromTensorFlow()), "TensorFlow places its tensors itself"),
        (lambda: ["row"] * 4, "the batches hold str objects"),
    ],
)
def test_batches_that_are_no_torch_tensors_cost_no_epoch_and_the_reason_is_true(
    make, reason, monkeypatch
):
    monkeypatch.setattr(gpu, "_cuda_available", lambda: True)
    epochs = Epochs(make)
    work = BatchWork(lambda: epochs, PLAIN)
    work.visit()
    assert work.transfer() == (dict.fromkeys(H2D_METRICS), dict.fromkeys(H2D_METRICS, reason))
    assert epochs.begun == 1


def test_without_cuda_torch_tensors_cost_no_epoch(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(gpu, "_cuda_available", lambda: False)
    work, epochs = visited(lambda: (torch.zeros(4, 2), torch.zeros(4)))
    assert work.transfer()[1] == dict.fromkeys(H2D_METRICS, "no CUDA device")
    assert epochs.begun == 1


def test_with_cuda_one_epoch_more_is_counted_and_its_beginning_copied(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(gpu, "_cuda_available", lambda: True)
    monkeypatch.setattr(gpu, "CudaDevice", lambda: None)
    monkeypatch.setattr(gpu, "SAMPLE_BYTES", 60)
    copied = []
    monkeypatch.setattr(
        gpu, "time_copies", lambda _, sources, __: copied.extend(sources) or {"h2d_pinned_s": 1.0}
    )
    work, epochs = visited(lambda: (torch.zeros(4, 2), torch.zeros(4)))
    metrics, reasons = work.transfer()
    assert [len(source) for source in copied] == [32, 16]
    assert metrics == {"h2d_pinned_s": 3.0, "h2d_bytes": 144.0}
    assert reasons == {}
    assert epochs.begun == 2


def test_a_pass_without_batches_has_nothing_to_transfer():
    work = BatchWork(list, PLAIN)
    work.visit()
    assert work.transfer()[1]["h2d_bytes"] == "the pass gave no batches"


def test_asking_for_the_transfer_imports_no_framework():
    code = """
import sys
import numpy as np
from feedrate.harness.trial.gpu import measure_h2d
from feedrate.harness.trial.batch_work import BatchWork
from feedrate.loaders.base.settings import LoaderSettings
work = BatchWork(lambda: [np.zeros((4, 2))], LoaderSettings())
work.visit()
work.transfer()
measure_h2d([])
assert not {"torch", "tensorflow"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("backend", "modules"), [("tensorflow", ["polars", "tensorflow"]), ("pytorch", ["polars"])]
)
@pytest.mark.slow
def test_what_a_first_load_imports_is_imported_in_warming_up(backend, modules):
    for module in modules:
        pytest.importorskip(module)
    code = (
        "import sys\n"
        "from feedrate.harness.trial.workload import warm_up\n"
        "from feedrate.loaders.base.settings import LoaderSettings\n"
        f"warm_up('frame', LoaderSettings(backend={backend!r}, num_workers=2))\n"
        f"missing = set({modules!r}) - set(sys.modules)\n"
        "assert not missing, missing\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_pipeline_is_warmed_up_once_whatever_its_cache_seed_and_batch_size(monkeypatch):
    warmed = []
    monkeypatch.setattr(session, "warm_up", lambda _, settings, __: warmed.append(settings))
    executor = InProcessExecutor(
        Data(paths=["none.parquet"], columns=None, features=["x"], target=None)
    )
    for changes in (
        {},
        {"cache": "disk"},
        {"seed": 7},
        {"batch_size": 512},
        {"prefetch": 7},
        {"num_workers": 3},
        {"prefetch": 7, "cache": "none"},
    ):
        trial = make_trial("frame", structs.replace(PLAIN, **changes), 1)
        run = executor.run(trial, "confirming", passes=1, verify=False)
        assert (run.verdict, run.passes) == ("error", [])  # there is no such file
    executor.close()
    assert [(settings.prefetch, settings.num_workers) for settings in warmed] == [
        (PLAIN.prefetch, 0),
        (7, 0),
        (PLAIN.prefetch, 3),
    ]
    assert pipeline(PLAIN).backend == "pytorch"


def test_notes_are_few_distinct_short_and_ours_come_first():
    def caught(category, text):
        return types.SimpleNamespace(category=category, message=category(text))

    found = notes(
        [
            *(caught(UserWarning, f"library {number}") for number in range(9)),
            caught(FeedrateWarning, "column 'x'\n  differs"),
            caught(FeedrateWarning, "column 'x' differs"),
            caught(FeedrateWarning, "y" * 9999),
        ]
    )
    assert found[0] == "column 'x' differs"
    assert found[1] == "y" * 500
    assert found[2] == "UserWarning: library 0"
    assert len(found) == MAX_NOTES


def test_reasons_why_pandas_reads_files_are_one_line_that_ends():
    assert doctest.testmod(frame_work).failed == 0
    many = Counter({f"reason {at}": 9 - at for at in range(5)})
    assert frame_work.in_one_line(many) == (
        "reason 0 (9 files) and reason 1 (8 files) and reason 2 (7 files) and for 2 other reasons"
    )
