import doctest
import subprocess
import sys
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from feedrate.harness.doctor import calibration
from feedrate.harness.record.metrics import METRICS
from feedrate.harness.trial import gpu
from feedrate.harness.trial.gpu import (
    ROUNDS,
    gpu_memory_and_utilisation,
    leading,
    measure_h2d,
    nvml_device_of,
    read_nvml,
    time_copies,
)

torch = pytest.importorskip("torch")

H2D = {"h2d_pageable_s", "h2d_pinned_s", "h2d_overlap_s", "h2d_bytes"}
GPU = {"gpu_util_pct", "gpu_mem_peak_bytes"}


class Buffer:
    """Bytes with a place: 'device', 'pinned' or 'pageable'."""

    def __init__(self, fake, place, memory):
        self.fake, self.place, self.memory = fake, place, memory

    def __len__(self):
        return len(self.memory)

    def __getitem__(self, part):
        return Buffer(self.fake, self.place, self.memory[part])

    def copy_(self, source, *, non_blocking):
        assert len(source) == len(self)
        self.fake.copy(self, source, non_blocking=non_blocking)


class FakeDevice:
    """A device whose asynchronous copies read their source as late as they may.

    A buffer that the host writes again too early therefore arrives with the wrong bytes. Each
    byte that is copied to the device takes a millisecond of its clock.
    """

    def __init__(self):
        self.clock_ms = 0.0
        self.current = None
        self.arrived = []
        self.log = []

    def stream(self):
        return SimpleNamespace(queue=[])

    @contextmanager
    def on(self, stream):
        self.current, before = stream, self.current
        yield
        self.current = before

    def event(self):
        return FakeEvent(self)

    def device_buffer(self, size):
        return self._buffer("device", size)

    def pinned_buffer(self, size):
        return self._buffer("pinned", size)

    def _buffer(self, place, size):
        self.log.append(("allocate", place, size))
        return Buffer(self, place, memoryview(bytearray(size)))

    def synchronize(self):
        self.log.append(("synchronize",))

    def copy(self, target, source, *, non_blocking):
        if target.place != "device":
            target.memory[:] = source.memory
            return

        def arrive():
            target.memory[:] = source.memory
            self.arrived.append((source.place, bytes(source.memory)))
            self.clock_ms += len(source)

        self.log.append(("copy", source.place, non_blocking))
        self.current.queue.append(arrive)
        if not non_blocking:
            self.run(self.current)

    def run(self, stream, upto=None):
        while stream.queue:
            entry = stream.queue.pop(0)
            entry()
            if entry is upto:
                return


class FakeEvent:
    def __init__(self, fake):
        self.fake = fake

    def record(self, stream):
        self.stream, self.reached = stream, None

        def reach():
            self.reached = self.fake.clock_ms

        self.mark = reach
        stream.queue.append(reach)
        if len(stream.queue) == 1:  # an idle stream comes to the mark at once
            self.fake.run(stream)

    def synchronize(self):
        self.fake.log.append(("wait",))
        if self.reached is None:
            self.fake.run(self.stream, upto=self.mark)

    def elapsed_time(self, end):
        return end.reached - self.reached


def sources_of(fake, *texts):
    return [Buffer(fake, "pageable", memoryview(bytearray(text))) for text in texts]


def test_every_way_delivers_every_batch_unharmed_and_in_order():
    fake = FakeDevice()
    texts = [b"one", b"three", b"seven!!", b"x", b"fourteen bytes", b"end"]
    time_copies(fake, sources_of(fake, *texts), rounds=1)
    warm_up, timed = fake.arrived[:3], fake.arrived[3:]
    assert [data for _, data in warm_up] == [b"one"] * 3
    assert [data for _, data in timed] == texts * 3
    assert [place for place, _ in timed] == ["pageable"] * 6 + ["pinned"] * 12


def test_times_are_seconds_between_events_around_the_copies():
    fake = FakeDevice()
    times = time_copies(fake, sources_of(fake, b"abc", b"de", b"f"))
    assert times == pytest.approx(dict.fromkeys(H2D - {"h2d_bytes"}, 0.006))


def test_pinned_copies_are_queued_without_waiting_but_for_the_end():
    fake = FakeDevice()
    time_copies(fake, sources_of(fake, b"a", b"b", b"c", b"d"), rounds=1)
    timed = fake.log[-(1 + 4 + 1) - (1 + 4 + 2 + 1) :]  # pinned: 6 entries, overlapped: 8
    assert timed[:6] == [("synchronize",), *[("copy", "pinned", True)] * 4, ("wait",)]
    # With two staging buffers, the third and fourth batch wait for the first and second.
    assert timed[6:] == [
        ("synchronize",),
        ("copy", "pinned", True),
        ("copy", "pinned", True),
        ("wait",),
        ("copy", "pinned", True),
        ("wait",),
        ("copy", "pinned", True),
        ("wait",),
    ]


def test_one_slow_round_of_several_does_not_move_a_time(monkeypatch):
    fake = FakeDevice()
    monkeypatch.setattr(FakeEvent, "elapsed_time", lambda *_: next(times))
    # Pageable, pinned, overlapped: first untimed, then of three rounds.
    times = iter([9.0, 9, 9, 1, 20, 300, 1, 20, 300, 8, 16, 900])
    found = time_copies(fake, sources_of(fake, b"abc"), rounds=3)
    assert found == {"h2d_pageable_s": 0.001, "h2d_pinned_s": 0.02, "h2d_overlap_s": 0.3}


def test_nothing_is_allocated_while_the_clock_runs():
    fake = FakeDevice()
    time_copies(fake, sources_of(fake, b"a", b"bcd"))
    kinds = [entry[0] for entry in fake.log]
    assert "allocate" not in kinds[kinds.index("synchronize") :]
    assert ("allocate", "device", 3) in fake.log


def test_a_staging_buffer_written_too_early_would_be_noticed(monkeypatch):
    monkeypatch.setattr(FakeEvent, "synchronize", lambda _: None)
    fake = FakeDevice()
    stream = fake.stream()
    staging = fake.pinned_buffer(1)
    slot = fake.device_buffer(1)
    with fake.on(stream):
        for source in sources_of(fake, b"a", b"b"):
            staging.copy_(source, non_blocking=False)
            slot.copy_(staging, non_blocking=True)
        fake.run(stream)
    assert [data for _, data in fake.arrived] == [b"b", b"b"]


def test_the_leading_batches_are_taken_up_to_the_limit_without_empty_ones():
    batches = [torch.zeros(size) for size in (0, 4, 4, 0, 4)]
    for limit, sizes in ((32, [4, 4]), (1, [4]), (1000, [4, 4, 4])):
        chosen, total = leading(iter(batches), limit)
        assert [len(batch) for batch in chosen] == sizes
        assert total == 48


def test_batches_beyond_the_limit_are_let_go_of_one_by_one():
    alive = weakref.WeakSet()

    def epoch():
        for _ in range(20):
            batch = torch.zeros(4)
            alive.add(batch)
            yield batch
            del batch
            assert len(alive) <= 3 + 1

    chosen, total = leading(epoch(), 48)
    assert (len(chosen), total) == (3, 320)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_nothing_is_measured_and_the_reason_is_given():
    metrics, reasons = measure_h2d([torch.zeros(4, 4)])
    assert metrics == dict.fromkeys(H2D)
    assert reasons == dict.fromkeys(H2D, "no CUDA device")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_not_one_batch_is_asked_for():
    def epoch():
        pytest.fail("a batch was asked for")
        yield

    assert measure_h2d(epoch())[1]["h2d_pinned_s"] == "no CUDA device"


def test_without_torch_nothing_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert measure_h2d([])[1] == dict.fromkeys(H2D, "no CUDA device")


@pytest.fixture
def fake_cuda(monkeypatch):
    """The fake in the place of CUDA; torch's tensors become its pageable buffers."""
    fake = FakeDevice()
    monkeypatch.setattr(gpu, "_cuda_available", lambda: True)
    monkeypatch.setattr(gpu, "CudaDevice", lambda: fake)
    prepare = gpu._in_pageable_memory
    monkeypatch.setattr(
        gpu,
        "_in_pageable_memory",
        lambda batches: sources_of(fake, *(t.numpy().tobytes() for t in prepare(batches))),
    )
    return fake


def test_batches_of_any_shape_arrive_as_their_bytes(fake_cuda):
    batches = [torch.arange(6.0).view(3, 2), torch.arange(6.0).view(2, 3).T, torch.ones(2)]
    metrics, reasons = measure_h2d(batches)
    expected = [batch.contiguous().numpy().tobytes() for batch in batches]
    assert [data for _, data in fake_cuda.arrived[-3:]] == expected
    assert metrics["h2d_bytes"] == 56
    assert metrics["h2d_pinned_s"] == pytest.approx(0.056)
    assert reasons == {}


def test_times_are_scaled_from_the_sample_to_the_pass(fake_cuda, monkeypatch):
    monkeypatch.setattr(gpu, "SAMPLE_BYTES", 16)
    metrics, _ = measure_h2d([torch.ones(2)] * 10)
    assert len(fake_cuda.arrived[3:]) == 2 * 3 * ROUNDS
    assert metrics == pytest.approx(
        {"h2d_pageable_s": 0.08, "h2d_pinned_s": 0.08, "h2d_overlap_s": 0.08, "h2d_bytes": 80}
    )


@pytest.mark.usefixtures("fake_cuda")
def test_a_pass_without_batches_has_no_transfer():
    assert measure_h2d([torch.ones(0, 3)])[1] == dict.fromkeys(H2D, "the pass gave no batches")


def test_an_error_of_cuda_is_a_reason(fake_cuda, monkeypatch):
    def fail(_size):
        raise RuntimeError("CUDA out of memory.\nmore advice")

    monkeypatch.setattr(fake_cuda, "pinned_buffer", fail)
    metrics, reasons = measure_h2d([torch.ones(2)])
    assert metrics == dict.fromkeys(H2D)
    assert reasons["h2d_overlap_s"] == "CUDA failed: CUDA out of memory."


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_every_way_takes_time_and_pinned_is_no_slower_than_a_crawl():
    metrics, reasons = measure_h2d([torch.ones(256, 1024)] * 32)
    assert reasons == {}
    assert metrics["h2d_bytes"] == 32 << 20
    for name in H2D - {"h2d_bytes"}:
        assert 0 < metrics[name] < 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_pinned_copies_take_what_a_plain_loop_takes():
    found = calibration.copies()
    assert found.holds, found


@pytest.mark.slow
def test_a_doctor_that_has_not_imported_torch_calibrates_copies_all_the_same():
    """`doctor --calibrate` is the first to need torch, which looking for CUDA does not import."""
    code = (
        "import sys; from feedrate.harness.doctor import calibration; "
        "assert 'torch' not in sys.modules; found = calibration.copies(); "
        "print('torch' in sys.modules, found is not None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", str(torch.cuda.is_available())]


@pytest.mark.usefixtures("fake_cuda")
def test_copies_are_calibrated_where_there_is_cuda(monkeypatch):
    monkeypatch.setattr(calibration, "COPY_BYTES", 1)
    monkeypatch.setattr(calibration, "COPIES", 4)
    slow = iter([1.0, 0.004, 0.004, 0.0041, 0.5])  # of five turns two may be disturbed
    monkeypatch.setattr(calibration, "plain_copy_seconds", lambda *_: next(slow))
    found = calibration.copies()
    assert (found.holds, found.true, found.measured) == (True, "4.10 ms", "4.00 ms")
    monkeypatch.setattr(calibration, "plain_copy_seconds", lambda *_: 1.0)
    assert not calibration.copies().holds


def test_a_plain_loop_copies_as_often_as_it_is_asked(fake_cuda):
    assert gpu.plain_copy_seconds(8, 3) >= 0
    copied = [entry for entry in fake_cuda.log if entry[0] == "copy"]
    assert copied == [("copy", "pinned", True)] * 4  # with the warm-up


def test_where_torch_sees_no_gpu_there_are_no_copies_to_calibrate(monkeypatch):
    monkeypatch.setattr(gpu, "_cuda_available", lambda: False)
    assert calibration.copies() is None


def test_copies_that_fail_are_told_by_the_calibration(fake_cuda, monkeypatch):
    def fail(_size):
        raise RuntimeError("CUDA out of memory.")

    monkeypatch.setattr(fake_cuda, "pinned_buffer", fail)
    found = calibration.copies()
    assert (found.holds, found.reason) == (False, "CUDA failed: CUDA out of memory.")


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize(("name", "copied"), [("NVIDIA T4", 1), (None, 0)])
def test_copies_are_calibrated_on_machines_with_a_gpu_only(monkeypatch, name, copied):
    monkeypatch.setattr(calibration, "FIGURES", ())
    monkeypatch.setattr(calibration, "COPY_BYTES", 1 << 16)
    monkeypatch.setattr(calibration, "VERDICTS", ())
    monkeypatch.setattr(calibration, "fingerprint", lambda: SimpleNamespace(gpu=name))
    found = list(calibration.calibrate([]))
    assert ["H2D pinned" in one.what for one in found] == [True] * copied


class FakeNvml:
    """The part of pynvml that is used, for one device with samples at 10, 20 and 30 µs."""

    NVML_GPU_UTILIZATION_SAMPLES = 1

    class NVMLError(Exception):
        pass

    class NVMLError_NotFound(NVMLError):  # noqa: N801, N818 - NVML's names
        pass

    def __init__(self, **broken):
        self.broken = broken
        self.asked = []

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802 - NVML's names
        self.asked.append(index)

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802 - NVML's names
        self.asked.append(uuid)

    def nvmlDeviceGetSamples(self, _handle, _kind, since):  # noqa: N802 - NVML's names
        if "samples" in self.broken:
            raise self.NVMLError("Not Supported")
        if since > 31:
            raise self.NVMLError_NotFound("Not Found")
        return 1, [
            SimpleNamespace(timeStamp=t, sampleValue=SimpleNamespace(uiVal=v))
            for t, v in ((10, 100), (20, 40), (30, 50))
        ]

    def nvmlDeviceGetMemoryInfo(self, _handle):  # noqa: N802 - NVML's names
        return SimpleNamespace(used=3 << 30)


def test_utilisation_is_the_mean_of_the_samples_of_the_pass():
    metrics, reasons = read_nvml(FakeNvml(), 0, since_us=15)
    assert metrics == {"gpu_util_pct": 45.0, "gpu_mem_peak_bytes": float(3 << 30)}
    assert reasons == {}


def test_a_figure_that_the_device_lacks_does_not_take_the_other_with_it():
    metrics, reasons = read_nvml(FakeNvml(samples="no"), "GPU-8a3c", since_us=0)
    assert metrics == {"gpu_util_pct": None, "gpu_mem_peak_bytes": float(3 << 30)}
    assert reasons == {"gpu_util_pct": "NVML: Not Supported"}


def test_a_pass_shorter_than_the_sampling_has_no_utilisation():
    for since_us in (99, 30.5):  # NVML raises, or has older samples only
        metrics, reasons = read_nvml(FakeNvml(), 0, since_us)
        assert metrics["gpu_util_pct"] is None
        assert "no sample" in reasons["gpu_util_pct"]


@pytest.mark.parametrize(
    ("visible", "count", "order", "expected"),
    [
        (0, 1, None, 0),
        (1, 4, "PCI_BUS_ID", 1),
        (1, 4, None, None),
        (0, 4, "FASTEST_FIRST", None),
        ("GPU-8a3c", 4, None, "GPU-8a3c"),
    ],
)
def test_an_index_of_cuda_is_one_of_nvml_only_where_both_number_alike(
    monkeypatch, visible, count, order, expected
):
    environment = {} if order is None else {"CUDA_DEVICE_ORDER": order}
    monkeypatch.setattr(gpu, "_cuda_available", lambda: False)
    assert nvml_device_of(visible, count, environment) == expected
    monkeypatch.setattr(gpu, "_cuda_available", lambda: True)
    here = SimpleNamespace(uuid="4d1f")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: here)
    found = nvml_device_of(visible, count, environment)
    assert found == ("GPU-4d1f" if expected is None else expected)


def test_the_device_is_asked_for_by_index_or_uuid():
    nvml = FakeNvml()
    read_nvml(nvml, 2, 0)
    read_nvml(nvml, "GPU-8a3c", 0)
    assert set(nvml.asked) == {2, "GPU-8a3c"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_nvml_the_reason_says_so():
    metrics, reasons = gpu_memory_and_utilisation()
    assert metrics == dict.fromkeys(GPU)
    assert all("no NVML" in reason for reason in reasons.values())


def test_without_nvidia_ml_py_the_reason_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "feedrate[harness]" in gpu_memory_and_utilisation()[1]["gpu_util_pct"]


def test_hidden_gpus_are_not_asked_about(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpu_memory_and_utilisation()[1]["gpu_util_pct"].startswith("CUDA_VISIBLE_DEVICES")


def test_examples_in_docstrings_hold():
    assert doctest.testmod(gpu).failed == 0


def test_all_names_are_registered_metrics():
    assert set(METRICS) >= H2D | GPU
