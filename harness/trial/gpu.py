"""Host-to-device (H2D) transfer times, and the GPU's utilisation and memory from NVML."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ..record.statistics import median

Metrics = dict[str, float | None]
Reasons = dict[str, str]

H2D_METRICS = ("h2d_pageable_s", "h2d_pinned_s", "h2d_overlap_s", "h2d_bytes")
GPU_METRICS = ("gpu_util_pct", "gpu_mem_peak_bytes")
NO_CUDA = "no CUDA device"
NO_BATCHES = "the pass gave no batches"
# Enough for a steady rate at any link speed (10 ms at 25 GB/s), and little enough to pin.
SAMPLE_BYTES = 256 << 20
SLOTS = 2  # one staging buffer fills while the other is copied; more would only hold memory
# Overlapped copies of 2.7 MB on an H200 took 5 and 18 times as long in 2 of 11 launches.
ROUNDS = 5


class Event(Protocol):
    """A mark in a stream, as `torch.cuda.Event(enable_timing=True)`."""

    def record(self, stream: Any) -> None:
        """Append the mark to the stream's queue."""

    def synchronize(self) -> None:
        """Wait until the stream has reached the mark."""

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds from this mark to `end`, after both were reached."""


class Device(Protocol):
    """The device operations that the measurements need; `CudaDevice` is the real one.

    A buffer is one-dimensional, of bytes, with `len`, slices and `copy_(source, non_blocking)`,
    like a torch tensor of uint8.
    """

    def stream(self) -> Any:
        """A new stream."""

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Send copies inside the block to `stream`."""

    def event(self) -> Event:
        """A new event with timing."""

    def device_buffer(self, size: int) -> Any:
        """A buffer on the device."""

    def pinned_buffer(self, size: int) -> Any:
        """A buffer in pinned host memory."""

    def synchronize(self) -> None:
        """Wait for all work that the device has queued."""


class CudaDevice:
    """The current CUDA device through torch."""

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch  # its streams and events are not typed

    def stream(self) -> Any:
        """A new stream in addition to the default one."""
        return self._torch.cuda.Stream()

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Make `stream` the current one inside the block."""
        context: AbstractContextManager[Any] = self._torch.cuda.stream(stream)
        return context

    def event(self) -> Any:
        """An event with timing."""
        return self._torch.cuda.Event(enable_timing=True)

    def device_buffer(self, size: int) -> Any:
        """An uninitialised uint8 tensor on the device."""
        return self._torch.empty(size, dtype=self._torch.uint8, device="cuda")

    def pinned_buffer(self, size: int) -> Any:
        """An uninitialised uint8 tensor in pinned memory."""
        return self._torch.empty(size, dtype=self._torch.uint8, pin_memory=True)

    def synchronize(self) -> None:
        """Wait for all streams of the device."""
        self._torch.cuda.synchronize()


OTHER_ORDER = (
    "CUDA and NVML number GPUs in different orders; set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name the "
    "GPU by its UUID in CUDA_VISIBLE_DEVICES"
)


def measure_h2d(batches: Iterable[Any], rounds: int = ROUNDS) -> tuple[Metrics, Reasons]:
    """Time copying the batches of one pass to the GPU, in three ways.

    - `h2d_pageable_s`: copied from pageable memory, as `batch.to("cuda")` does;
    - `h2d_pinned_s`: copied from memory that was pinned before, without blocking;
    - `h2d_overlap_s`: staged into pinned memory by the host while the previous batch is copied on a
      side stream, as a loader with `pin_memory=True` does; the time of staging is included.

    No kernel consumes the batches, and the destination is allocated beforehand. At most the first
    256 MiB are kept and copied, but at least one batch. The ways alternate for a few rounds; the
    time of each is its median, in seconds, scaled up to the pass.

    Args:
        batches: CPU torch tensors of one pass, of any shape and dtype. Without CUDA none is taken;
            otherwise all are, so that the bytes of the pass are known.
        rounds: how often each way is timed.

    Returns:
        Metrics `h2d_pageable_s`, `h2d_pinned_s`, `h2d_overlap_s` and `h2d_bytes`, and the reasons
        for those that are None: all of them without torch or CUDA.
    """
    if not _cuda_available():
        return untransferred(NO_CUDA)
    sample, total = leading(batches, SAMPLE_BYTES)
    if not sample:
        return untransferred(NO_BATCHES)
    try:
        sources = _in_pageable_memory(sample)
        times = time_copies(CudaDevice(), sources, rounds)
    except RuntimeError as error:  # from CUDA or torch, for example out of memory
        return untransferred(f"CUDA failed: {str(error).splitlines()[0]}")
    scale = total / sum(map(len, sources))
    metrics: Metrics = {name: seconds * scale for name, seconds in times.items()}
    return metrics | {"h2d_bytes": float(total)}, {}


def plain_copy_seconds(size: int, times: int) -> float:
    """Time copying pinned memory to the GPU in a plain loop, to check `h2d_pinned_s`.

    Args:
        size: bytes of each copy.
        times: number of copies.

    Returns:
        Seconds by the host's clock, from an idle device to an idle one.

    Raises:
        RuntimeError, AssertionError: from torch, if it has no CUDA.
    """
    device = CudaDevice()
    source, target = device.pinned_buffer(size), device.device_buffer(size)
    with device.on(device.stream()):
        target.copy_(source, non_blocking=True)  # a warm-up
        device.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            target.copy_(source, non_blocking=True)
        device.synchronize()
    return time.perf_counter() - start


def time_copies(device: Device, sources: Sequence[Any], rounds: int = ROUNDS) -> dict[str, float]:
    """Time copying the sources, which are pageable host buffers, in the three ways.

    Each way first runs once, untimed, on one source. Then the ways alternate.

    Args:
        device: the destination.
        sources: the buffers to copy, in order.
        rounds: how often each way is timed.

    Returns:
        The median of the rounds for each way, in seconds.
    """
    size = max(map(len, sources))
    slots = [device.device_buffer(size) for _ in range(SLOTS)]
    staging = [device.pinned_buffer(size) for _ in range(SLOTS)]
    pinned = _pinned_copies(device, sources)

    def time_ways(n: int) -> dict[str, float]:
        return {
            "h2d_pageable_s": _time_direct(device, slots[0], sources[:n], non_blocking=False),
            "h2d_pinned_s": _time_direct(device, slots[0], pinned[:n], non_blocking=True),
            "h2d_overlap_s": _time_overlapped(device, slots, staging, sources[:n]),
        }

    time_ways(1)
    timed = [time_ways(len(sources)) for _ in range(rounds)]
    return {name: median([times[name] for times in timed]) for name in timed[0]}


def _time_direct(
    device: Device, destination: Any, sources: Sequence[Any], *, non_blocking: bool
) -> float:
    """Copy each source into the same destination, which the stream's order makes safe."""
    targets = [destination[: len(source)] for source in sources]
    stream, start, end = device.stream(), device.event(), device.event()
    device.synchronize()
    with device.on(stream):
        start.record(stream)
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source, non_blocking=non_blocking)
        end.record(stream)
    end.synchronize()
    return start.elapsed_time(end) / 1000


def _time_overlapped(
    device: Device, slots: Sequence[Any], staging: Sequence[Any], sources: Sequence[Any]
) -> float:
    """Stage each source into one of the pinned buffers while the other is being copied.

    A staging buffer is written again only when its copy is done: the host waits for the event
    recorded after it. Destinations need no wait, as one stream fills them in order.
    """
    stream, start, end = device.stream(), device.event(), device.event()
    copied = [device.event() for _ in slots]
    device.synchronize()
    with device.on(stream):
        start.record(stream)
        for i, source in enumerate(sources):
            slot, size = i % len(slots), len(source)
            if i >= len(slots):
                copied[slot].synchronize()
            staging[slot][:size].copy_(source, non_blocking=False)
            slots[slot][:size].copy_(staging[slot][:size], non_blocking=True)
            copied[slot].record(stream)
        end.record(stream)
    end.synchronize()
    return start.elapsed_time(end) / 1000


def _pinned_copies(device: Device, sources: Sequence[Any]) -> list[Any]:
    """The sources in one pinned buffer: pinning page by page would take longer than copying."""
    arena = device.pinned_buffer(sum(map(len, sources)))
    copies, offset = [], 0
    for source in sources:
        copies.append(arena[offset : offset + len(source)])
        copies[-1].copy_(source, non_blocking=False)
        offset += len(source)
    return copies


def leading(batches: Iterable[Any], limit: int) -> tuple[list[Any], int]:
    """The first batches up to `limit` bytes in total, and the bytes of all batches.

    At least one batch is kept, and never an empty one. The others are dropped.
    """
    chosen: list[Any] = []
    total = 0
    for batch in batches:
        total += batch.nbytes
        if batch.nbytes and (total <= limit or not chosen):
            chosen.append(batch)
    return chosen, total


def _in_pageable_memory(batches: Sequence[Any]) -> list[Any]:
    """Copies of the batches as flat bytes in one pageable buffer, whatever memory they are in."""
    import torch

    flat: list[Any] = [
        batch.detach().cpu().contiguous().view(-1).view(torch.uint8) for batch in batches
    ]
    arena: Any = torch.cat(flat)
    return list(arena.split([len(source) for source in flat]))


def _cuda_available() -> bool:
    # Torch is imported if there are torch tensors; importing it for nothing would cost seconds.
    torch: Any = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_available())


def untransferred(reason: str) -> tuple[Metrics, Reasons]:
    """All H2D metrics as None, for one reason."""
    return dict.fromkeys(H2D_METRICS), dict.fromkeys(H2D_METRICS, reason)


def gpu_memory_and_utilisation(since_us: int = 0) -> tuple[Metrics, Reasons]:
    """Read NVML's metrics of the GPU that this process uses first.

    `gpu_util_pct` is the mean of the driver's timestamped samples: the share of time in which a
    kernel of any process was active. `gpu_mem_peak_bytes` is the device memory in use now, by all
    processes; as torch keeps reserved memory, a reading at the end of a pass gives its peak.

    Args:
        since_us: leave out samples before this time, in microseconds since the epoch
            (`time.time_ns() // 1000` at the start of the pass). The driver keeps a few seconds.

    Returns:
        The two metrics, and the reasons for those that are None: both without NVML.
    """
    try:
        import pynvml
    except ImportError:
        return _unknown_gpu("NVML needs nvidia-ml-py: pip install 'feedrate[harness]'")
    visible = first_visible(os.environ)
    if visible is None:
        return _unknown_gpu("CUDA_VISIBLE_DEVICES hides every GPU")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return _unknown_gpu(f"no NVML: {error}")
    try:
        device = nvml_device_of(visible, pynvml.nvmlDeviceGetCount(), os.environ)
        return _unknown_gpu(OTHER_ORDER) if device is None else read_nvml(pynvml, device, since_us)
    except (pynvml.NVMLError, RuntimeError) as error:  # torch raises RuntimeError
        return _unknown_gpu(f"the GPU cannot be found in NVML: {error}")
    finally:
        pynvml.nvmlShutdown()


def nvml_device_of(
    visible: int | str, count: int, environment: Mapping[str, str]
) -> int | str | None:
    """CUDA's first device as NVML identifies it; None if the two may number devices differently.

    CUDA numbers the fastest first unless CUDA_DEVICE_ORDER is PCI_BUS_ID; NVML numbers by the bus.
    """
    same_order = count == 1 or environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if isinstance(visible, str) or same_order:
        return visible
    if _cuda_available():
        torch: Any = sys.modules["torch"]
        uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None)
        return None if uuid is None else f"GPU-{uuid}"
    return None


def first_visible(environment: Mapping[str, str]) -> int | str | None:
    """The device that CUDA uses first, by index or UUID; None if all are hidden.

    >>> first_visible({}), first_visible({"CUDA_VISIBLE_DEVICES": "2,0"})
    (0, 2)
    >>> first_visible({"CUDA_VISIBLE_DEVICES": "GPU-8a3c"})
    'GPU-8a3c'
    >>> first_visible({"CUDA_VISIBLE_DEVICES": "-1"}), first_visible({"CUDA_VISIBLE_DEVICES": ""})
    (None, None)
    """
    name = environment.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if name.startswith(("GPU-", "MIG-")):
        return name
    return int(name) if name.isdigit() else None


def read_nvml(nvml: Any, device: int | str, since_us: int) -> tuple[Metrics, Reasons]:
    """Read both metrics with the module `nvml`, separately: some devices have only one."""
    metrics: Metrics = dict.fromkeys(GPU_METRICS)
    reasons: Reasons = {}
    for name, read in zip(GPU_METRICS, (_utilisation, _memory_in_use), strict=True):
        try:
            metrics[name] = read(nvml, _handle(nvml, device), since_us)
        except nvml.NVMLError as error:
            reasons[name] = f"NVML: {error}"
        else:
            if metrics[name] is None:
                reasons[name] = "NVML has no sample from the time of the pass"
    return metrics, reasons


def _handle(nvml: Any, device: int | str) -> Any:
    if isinstance(device, str):
        return nvml.nvmlDeviceGetHandleByUUID(device)
    return nvml.nvmlDeviceGetHandleByIndex(device)


def _utilisation(nvml: Any, handle: Any, since_us: int) -> float | None:
    kind = nvml.NVML_GPU_UTILIZATION_SAMPLES
    try:
        _, samples = nvml.nvmlDeviceGetSamples(handle, kind, since_us)
    except nvml.NVMLError_NotFound:  # there is no sample since then
        return None
    values = [sample.sampleValue.uiVal for sample in samples if sample.timeStamp >= since_us]
    return sum(values) / len(values) if values else None


def _memory_in_use(nvml: Any, handle: Any, _since_us: int) -> float | None:
    return float(nvml.nvmlDeviceGetMemoryInfo(handle).used)


def _unknown_gpu(reason: str) -> tuple[Metrics, Reasons]:
    return dict.fromkeys(GPU_METRICS), dict.fromkeys(GPU_METRICS, reason)
