"""What footers and page headers of Parquet use of Thrift's compact protocol."""

from __future__ import annotations

from collections.abc import Iterator

# The types of fields and of elements of lists.
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, STRUCT = (
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12,
)  # fmt: skip
_FIXED = {TRUE: 0, FALSE: 0, BYTE: 1, DOUBLE: 8}  # bytes; a boolean field is its type
MANY = 0x0F  # of a list: its length stands apart
_VARINT_BYTES = 10  # of 64 bits
BITS, MORE = 7, 0x80  # of a number's byte: those of the number, and that another byte follows

# Matches a number. Those of fields are zigzag: of what is not negative even, and twice as much.
NUMBER = rb"[\x80-\xff]*+[\x00-\x7f]"


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins there, of up to 64 bits, and where it ends.

    Raises:
        IndexError: the data end first.
        ValueError: it is longer.
    """
    number = 0
    for place in range(_VARINT_BYTES):
        byte = data[at + place]
        number |= (byte & (MORE - 1)) << BITS * place
        if byte < MORE:
            return number, at + place + 1
    raise ValueError(at)


def skip(data: bytes, at: int, kind: int) -> int:
    """Where the value that begins at `at` ends."""
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
    if count > len(data) - at:  # each takes a byte or more
        raise ValueError(count)
    if kind in {TRUE, FALSE}:  # in a list they take a byte
        return at + count
    for _ in range(count):
        at = skip(data, at, kind)
    return at


def fields(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Of each field of the struct that begins there its number, its type, and its value's place.

    Raises:
        IndexError: the data end first.
        ValueError: a field is of a type that is not known here.
    """
    number = 0
    while data[at]:
        kind, step = data[at] & 0x0F, data[at] >> 4
        at += 1
        if step:
            number += step
        else:  # it stands by itself, as a zigzag number
            number, at = varint(data, at)
            number >>= 1
        yield number, kind, at
        at = skip(data, at, kind)


def length_of_list(data: bytes, at: int) -> tuple[int, int]:
    """How many elements the list that begins there has, and where the first begins."""
    count = data[at] >> 4
    return varint(data, at + 1) if count == MANY else (count, at + 1)


def field(kind: int, step: int = 1) -> int:
    """The header of a field of this type, so many numbers after the one before."""
    return step << 4 | kind


def list_header(kind: int, count: int) -> bytes:
    """What stands before the elements of a list."""
    if count < MANY:
        return bytes((count << 4 | kind,))
    return bytes((MANY << 4 | kind,)) + as_varint(count)


def _skip_struct(data: bytes, at: int) -> int:
    while data[at]:
        kind, step = data[at] & 0x0F, data[at] >> 4
        at += 1
        if not step:  # a field number too far from the last stands by itself
            _, at = varint(data, at)
        at = skip(data, at, kind)
    return at + 1


def as_text(name: str) -> bytes:
    """A name as Thrift writes it, after its length."""
    text = name.encode()
    return as_varint(len(text)) + text


def as_varint(number: int) -> bytes:
    """A number as Thrift writes it, seven bits a byte."""
    found = bytearray()
    while number >= MORE:
        found.append(number & (MORE - 1) | MORE)
        number >>= BITS
    return bytes([*found, number])
