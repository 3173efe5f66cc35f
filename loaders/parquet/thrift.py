"""The parts of Thrift's compact protocol that Parquet's footers and page headers use."""

from __future__ import annotations

from collections.abc import Iterator

# The types of fields and of elements of lists.
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, STRUCT = (
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12,
)  # fmt: skip
_FIXED = {TRUE: 0, FALSE: 0, BYTE: 1, DOUBLE: 8}  # bytes; a boolean field's type is its value
MANY = 0x0F  # in a list's header: the length follows it
_VARINT_BYTES = 10  # at most, for 64 bits
BITS, MORE = 7, 0x80  # in a varint's byte: bits of the number; flag for a further byte

# Matches a varint. Fields hold numbers in zigzag: one that is not negative is doubled, so even.
NUMBER = rb"[\x80-\xff]*+[\x00-\x7f]"


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number of up to 64 bits that begins at `at`, and the offset after it.

    Raises:
        IndexError: the data ends before the number.
        ValueError: the number has more than 64 bits.
    """
    number = 0
    for place in range(_VARINT_BYTES):
        byte = data[at + place]
        number |= (byte & (MORE - 1)) << BITS * place
        if byte < MORE:
            return number, at + place + 1
    raise ValueError(at)


def skip(data: bytes, at: int, kind: int) -> int:
    """The offset after the value of type `kind` that begins at `at`."""
    if kind in _FIXED:
        return at + _FIXED[kind]
    if kind in {LIST, SET}:
        return _skip_list(data, at)
    if kind == STRUCT:
        return _skip_struct(data, at)
    if kind not in {I16, I32, I64, BINARY}:
        raise ValueError(kind)  # schemas hold no maps
    number, at = varint(data, at)
    return at + number if kind == BINARY else at


def _skip_list(data: bytes, at: int) -> int:
    kind = data[at] & 0x0F
    count, at = length_of_list(data, at)
    if count > len(data) - at:  # each element takes a byte or more
        raise ValueError(count)
    if kind in {TRUE, FALSE}:  # a boolean in a list takes a byte
        return at + count
    for _ in range(count):
        at = skip(data, at, kind)
    return at


def fields(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, type and value offset of each field of the struct that begins at `at`.

    Raises:
        IndexError: the data ends before the struct.
        ValueError: a field's type is not known here.
    """
    number = 0
    while data[at]:
        kind, step = data[at] & 0x0F, data[at] >> 4
        at += 1
        if step:
            number += step
        else:  # the field's number follows, zigzag
            number, at = varint(data, at)
            number >>= 1
        yield number, kind, at
        at = skip(data, at, kind)


def length_of_list(data: bytes, at: int) -> tuple[int, int]:
    """The length of the list that begins at `at`, and the offset of its first element."""
    count = data[at] >> 4
    return varint(data, at + 1) if count == MANY else (count, at + 1)


def field(kind: int, step: int = 1) -> int:
    """The header of a field of this type; its number is `step` more than the previous one."""
    return step << 4 | kind


def list_header(kind: int, count: int) -> bytes:
    """The header of a list, before its elements."""
    if count < MANY:
        return bytes((count << 4 | kind,))
    return bytes((MANY << 4 | kind,)) + as_varint(count)


def _skip_struct(data: bytes, at: int) -> int:
    while data[at]:
        kind, step = data[at] & 0x0F, data[at] >> 4
        at += 1
        if not step:  # the field's number follows
            _, at = varint(data, at)
        at = skip(data, at, kind)
    return at + 1


def as_text(name: str) -> bytes:
    """A name as Thrift writes it, after its length."""
    text = name.encode()
    return as_varint(len(text)) + text


def as_varint(number: int) -> bytes:
    """A number as Thrift writes it, seven bits per byte."""
    encoded = bytearray()
    while number >= MORE:
        encoded.append(number & (MORE - 1) | MORE)
        number >>= BITS
    return bytes([*encoded, number])
