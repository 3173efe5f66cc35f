"""Batches on a GPU: copied ahead on a side stream, from page-locked buffers that are reused.

Rows of feedrate's loaders are copied a chunk at a time and cut into batches on the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch  # noqa: TID253 - it moves tensors; imported when needed

from ..base.errors import InputError
from .batches import Tensors, mapped
from .feed import FeedDataLoader

# Batches that are being copied while the consumer computes. One would be enough if reading never
# stalled; each costs its size in page-locked and in GPU memory.
AHEAD = 2
# The same for chunks. One is enough: only the consumer's stream waits for copies, not the host, so
# the GPU works on one chunk while the next is gathered and its copy begins.
CHUNKS_AHEAD = 1
# Each call to copy has a cost. On an H200 and 16 CPUs an epoch of a million rows of 33 floats took
# 59 ms with chunks of 2 MiB, 25 with 4 or 8, 22 with 16 (benchmarks/DEVICE.md).
CHUNK_BYTES = 8 << 20


class Event(Protocol):
    """A mark in a stream of copies."""

    def synchronize(self) -> None:
        """Wait until the copies before the mark are done."""


class Copier(Protocol):
    """Copies to a device, on a separate stream."""

    def buffer(self, like: torch.Tensor) -> torch.Tensor:
        """Page-locked memory of the shape and dtype of `like`."""

    def copy(self, source: torch.Tensor) -> torch.Tensor:
        """Begin to copy page-locked memory to the device; the result is not ready yet."""

    def mark(self) -> Event:
        """A mark after the copies begun so far."""

    def hand_over(self, event: Event, tensors: Sequence[torch.Tensor]) -> None:
        """Make the consumer's stream wait for `event`; tell the allocator it uses `tensors`."""

    def consumer(self) -> int:
        """A number that identifies the consumer's stream.

        Not the stream itself: torch's two classes compare it differently, `!= None` is False.
        """


class CudaCopier:
    """Copies on a side stream of a CUDA device.

    Args:
        device: the device.
    """

    def __init__(self, device: torch.device) -> None:
        # The device's number, which torch would look up for each batch, in 10 µs.
        self._device = torch.empty(0, device=device).get_device()
        self._stream: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch's

    def buffer(self, like: torch.Tensor) -> torch.Tensor:
        """Page-locked memory."""
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def copy(self, source: torch.Tensor) -> torch.Tensor:
        """Begin a copy on the side stream."""
        with torch.cuda.stream(self._stream):
            return source.cuda(self._device, non_blocking=True)

    def mark(self) -> Event:
        """An event on the side stream."""
        event: Event = self._stream.record_event()
        return event

    def hand_over(self, event: Event, tensors: Sequence[torch.Tensor]) -> None:
        """Make the consumer's stream wait for the copies.

        The tensors' memory belongs to the side stream; without `record_stream` the allocator would
        give it to the next copy as soon as the consumer drops it.
        """
        current = torch.cuda.current_stream(self._device)
        current.wait_event(event)  # type: ignore[arg-type]  # mark() made it
        for tensor in tensors:
            tensor.record_stream(current)

    def consumer(self) -> int:
        """CUDA's handle of the current stream."""
        handle: int = torch.cuda.current_stream(self._device).cuda_stream
        return handle


def _parse_device(name: str | torch.device) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device is {name!r}; use one like 'cuda', 'cuda:1' or 'cpu'") from error


def _require_cuda(device: torch.device) -> None:
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device is {str(device)!r} and torch sees no CUDA here; use 'cpu', or a torch build "
            "with CUDA on a machine that has a GPU"
        )


class DeviceLoader:
    """A loader's batches on a device; `len()`, epochs and states are the loader's.

    On CUDA the rows of a `FeedDataLoader` are copied in chunks, one chunk ahead, and cut into
    batches on the device: holding a batch keeps its chunk in the device's memory. For a matrix in
    memory a chunk is up to 8 MiB, gathered by threads into page-locked buffers, one for each worker
    and each of `prefetch`, at least two. For files a chunk is the rows that are decoded at once, up
    to `chunk_size` rows of each file of `shuffle_window`; these chunks, and those of a frame, are
    copied through two buffers.

    Batches of other loaders, batches made row by row, and batches of a `ParquetDataset` made by
    processes are copied ahead one by one if they are a tensor, or a tuple or list of tensors. Other
    batches (nested structures), and batches for other devices, are moved when they are yielded. On
    the CPU batches are passed on unchanged.

    Args:
        loader: yields batches.
        device: the target device.
        copier: makes the copier for a device; by default `CudaCopier` on CUDA.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        device: str | torch.device,
        copier: Callable[[torch.device], Copier] | None = None,
    ) -> None:
        self.loader = loader
        self.device = _parse_device(device)
        if copier is None:
            _require_cuda(self.device)
        default = CudaCopier if self.device.type == "cuda" else None
        self._make_copier = copier or default
        self._copier: Copier | None = None
        self._ahead: deque[_Copy] = deque()

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]  # a TypeError if it has no length

    def __iter__(self) -> Iterator[Any]:
        if self.device.type == "cpu" and self._make_copier is None:
            return iter(self.loader)
        if self._make_copier is None:
            return (mapped(batch, self._move) for batch in self.loader)
        # One copier for all epochs: memory is reused only on the stream that it was allocated for.
        if self._copier is None:
            self._copier = self._make_copier(self.device)
        copier = self._copier
        self._ahead = deque()  # another running iterator keeps its own
        # Start now, not with the first batch: the loader's state and ours must describe one epoch.
        if isinstance(self.loader, FeedDataLoader) and self.loader.in_chunks:
            chunks = _DeviceChunks(copier)
            return chunks.follow_stream(self.loader.start_epoch(chunks))
        return self._copy_ahead(iter(self.loader), copier, self._ahead)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the loader."""
        self._ahead = deque()
        self.loader.set_epoch(epoch)  # type: ignore[attr-defined]  # an error if it has none

    def state_dict(self) -> dict[str, Any]:
        """The state of a feedrate loader; batches copied ahead count as not yet yielded."""
        state: dict[str, Any] = self.loader.state_dict(len(self._ahead))  # type: ignore[attr-defined]
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state into the loader."""
        self._ahead = deque()
        self.loader.load_state_dict(state_dict)  # type: ignore[attr-defined]

    def _move(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _copy_ahead(
        self, batches: Iterator[Any], copier: Copier, ahead: deque[_Copy]
    ) -> Iterator[Any]:
        slots = [_Slot() for _ in range(AHEAD + 1)]
        try:
            for number, batch in enumerate(batches):
                ahead.append(self._begin_copy(batch, slots[number % len(slots)], copier))
                if len(ahead) > AHEAD:
                    yield ahead.popleft().hand_over(copier)
            while ahead:
                yield ahead.popleft().hand_over(copier)
        finally:
            # If the consumer stops early, wait for copies before their buffers are freed; `ahead`
            # keeps its length, since the state counts its batches as not yet yielded.
            for number in range(len(ahead)):
                ahead[number] = _Copy(None)
            for slot in slots:
                slot.wait()
            if hasattr(batches, "close"):
                batches.close()

    def _begin_copy(self, batch: Any, slot: _Slot, copier: Copier) -> _Copy:
        tensors = _tensors_of(batch)
        if tensors is None:
            return _Copy(mapped(batch, self._move))
        moved = slot.begin_copy(slot.fill(tensors, copier), copier)
        moved_batch = moved[0] if isinstance(batch, torch.Tensor) else type(batch)(moved)
        return _Copy(moved_batch, slot.event, moved)


@dataclass(frozen=True)
class _Copy:
    """A batch or chunk whose copy has begun; without an event it is on the consumer's stream."""

    batch: Any
    event: Event | None = None
    tensors: Sequence[torch.Tensor] = ()

    def hand_over(self, copier: Copier) -> Any:
        if self.event is not None:
            copier.hand_over(self.event, self.tensors)
        return self.batch


class _DeviceChunks:
    """The chunks of an epoch on a device, and their consumer's stream.

    Args:
        copier: copies them.
    """

    def __init__(self, copier: Copier) -> None:
        self.chunk_bytes = CHUNK_BYTES
        self._copier = copier
        self._slots: dict[int, _Slot] = {}
        self._last = _Copy(None)
        self._consumer: int | None = None

    def room(self, number: int, like: Tensors) -> Tensors:
        """Page-locked memory, once the copies out of it are done."""
        slot = self._slot(number)
        return _SlotChunk.of(slot.parts(like, self._copier), slot)

    def _slot(self, number: int) -> _Slot:
        return self._slots.setdefault(number, _Slot())

    def __call__(self, chunks: Iterable[Tensors]) -> Iterator[Tensors]:
        """The same rows on the device."""
        ahead: deque[_Copy] = deque()
        try:
            for number, chunk in enumerate(chunks):
                filled = self._in_slot(number, chunk)
                slot = filled.slot
                moved = tuple(slot.begin_copy(filled, self._copier))
                ahead.append(_Copy(moved, slot.event, moved))
                # The first is yielded at once: the consumer should not wait for a second.
                if len(ahead) > min(number, CHUNKS_AHEAD):
                    yield self._hand_over(ahead.popleft())
            while ahead:
                yield self._hand_over(ahead.popleft())
        finally:
            if hasattr(chunks, "close"):
                chunks.close()  # until then, threads that gather may call `room`
            for slot in self._slots.values():
                slot.wait()

    def _in_slot(self, number: int, chunk: Tensors) -> _SlotChunk:
        """The chunk itself if it was gathered into a slot, else a copy in one of a few slots."""
        if isinstance(chunk, _SlotChunk):
            return chunk
        slot = self._slot(number % (CHUNKS_AHEAD + 1))
        return _SlotChunk.of(slot.fill(chunk, self._copier), slot)

    def follow_stream(self, batches: Generator[Any, None, None]) -> Iterator[Any]:
        """The batches cut from the chunks, each ready for the stream that is current then."""
        try:
            for batch in batches:
                self._wait_on_new_stream()
                yield batch
        finally:
            batches.close()

    def _hand_over(self, chunk: _Copy) -> Tensors:
        self._wait_on_new_stream()  # the rest of the last chunk may be joined with this one
        self._last = chunk
        moved: Tensors = chunk.hand_over(self._copier)
        return moved

    def _wait_on_new_stream(self) -> None:
        """If the consumer has changed streams, make the new stream wait for the copies."""
        consumer = self._copier.consumer()
        if consumer != self._consumer:
            self._last.hand_over(self._copier)
            self._consumer = consumer


@dataclass
class _Slot:
    """Buffers of one batch or chunk, and the mark after the last copy out of them."""

    buffers: list[torch.Tensor] = field(default_factory=list)
    event: Event | None = None

    def wait(self) -> None:
        """Wait until the buffers may be written again."""
        if self.event is not None:
            self.event.synchronize()

    def parts(self, like: Sequence[torch.Tensor], copier: Copier) -> Tensors:
        """The parts of the buffers that `like` needs, once the copies out of them are done."""
        self.wait()
        if not all(map(_fits, self.buffers, like)) or len(self.buffers) != len(like):
            self.buffers = [copier.buffer(tensor) for tensor in like]
        return tuple(
            buffer[: len(tensor)] for buffer, tensor in zip(self.buffers, like, strict=True)
        )

    def fill(self, tensors: Sequence[torch.Tensor], copier: Copier) -> Tensors:
        """Copy rows into the buffers; return the filled parts."""
        parts = self.parts(tensors, copier)
        for part, tensor in zip(parts, tensors, strict=True):
            part.copy_(tensor)
        return parts

    def begin_copy(self, parts: Tensors, copier: Copier) -> list[torch.Tensor]:
        """Begin to copy parts of the buffers to the device."""
        moved = [copier.copy(part) for part in parts]
        self.event = copier.mark()
        return moved


class _SlotChunk(tuple[torch.Tensor, ...]):  # noqa: SLOT001 - it has an attribute
    """A chunk in the buffers of a slot."""

    slot: _Slot

    @classmethod
    def of(cls, parts: Tensors, slot: _Slot) -> _SlotChunk:
        """The parts of a slot's buffers."""
        self = cls(parts)
        self.slot = slot
        return self


def _tensors_of(batch: Any) -> Sequence[torch.Tensor] | None:
    """The tensors of a batch that is a tensor of rows, or a plain tuple or list of such tensors."""
    tensors = (batch,) if isinstance(batch, torch.Tensor) else batch
    if type(tensors) not in (tuple, list) or not tensors:
        return None
    have_rows = all(isinstance(part, torch.Tensor) and part.dim() > 0 for part in tensors)
    return tensors if have_rows else None


def _fits(buffer: torch.Tensor, tensor: torch.Tensor) -> bool:
    return (
        buffer.dtype == tensor.dtype
        and buffer.shape[1:] == tensor.shape[1:]
        and len(buffer) >= len(tensor)
    )
