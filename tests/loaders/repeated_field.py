"""A Parquet file that no library at hand writes: a repeated field that is no annotated list."""

import struct

_I32, _I64, _TEXT, _LIST, _STRUCT = 5, 6, 8, 9, 12  # Thrift's compact types
_RLE, _PLAIN, _REQUIRED, _REPEATED, _INT32, _INT64 = 3, 0, 0, 2, 1, 2  # Parquet's


def write_repeated(path):
    """Three rows of `x`, 10, 20 and 30, and of a repeated `r`: 1 and 2, 3, none."""
    x = _page(struct.pack("<3q", 10, 20, 30), 3)
    r = _page(_levels(0, 1, 0, 0) + _levels(1, 1, 1, 0) + struct.pack("<3i", 1, 2, 3), 4)
    at, chunks = 4, []
    for name, kind, page, values in (("x", _INT64, x, 3), ("r", _INT32, r, 4)):
        about = _fields(
            (1, _I32, _number(kind)), (2, _LIST, _list(_I32, [_number(_PLAIN), _number(_RLE)])),
            (3, _LIST, _list(_TEXT, [_text(name)])), (4, _I32, _number(0)),
            (5, _I64, _number(values)), (6, _I64, _number(len(page))),
            (7, _I64, _number(len(page))), (9, _I64, _number(at)),
        )  # fmt: skip
        chunks.append(_fields((2, _I64, _number(at)), (3, _STRUCT, about)))
        at += len(page)
    schema = [
        _fields((4, _TEXT, _text("schema")), (5, _I32, _number(2))),
        *(
            _fields((1, _I32, _number(kind)), (3, _I32, _number(how)), (4, _TEXT, _text(name)))
            for name, kind, how in (("x", _INT64, _REQUIRED), ("r", _INT32, _REPEATED))
        ),
    ]
    group = _fields(
        (1, _LIST, _list(_STRUCT, chunks)), (2, _I64, _number(len(x + r))), (3, _I64, _number(3))
    )
    footer = _fields(
        (1, _I32, _number(1)), (2, _LIST, _list(_STRUCT, schema)), (3, _I64, _number(3)),
        (4, _LIST, _list(_STRUCT, [group])),
    )  # fmt: skip
    path.write_bytes(b"PAR1" + x + r + footer + struct.pack("<i", len(footer)) + b"PAR1")


def _page(body, values):
    about = _fields(
        (1, _I32, _number(values)), (2, _I32, _number(_PLAIN)),
        (3, _I32, _number(_RLE)), (4, _I32, _number(_RLE)),
    )  # fmt: skip
    size = _number(len(body))
    return _fields((1, _I32, _number(0)), (2, _I32, size), (3, _I32, size), (5, _STRUCT, about)) + (
        body
    )


def _levels(*levels):
    runs = b"".join(bytes([2, level]) for level in levels)  # each a run of one
    return struct.pack("<i", len(runs)) + runs


def _fields(*given):
    """A struct of `(number, type, value)`."""
    out, last = b"", 0
    for number, kind, value in given:
        out += bytes([(number - last) << 4 | kind]) + value
        last = number
    return out + b"\0"


def _list(kind, items):
    return bytes([len(items) << 4 | kind]) + b"".join(items)


def _text(text):
    return bytes([len(text)]) + text.encode()


def _number(number):
    """Zigzag, for numbers below 64 in one byte, below 8192 in two."""
    number <<= 1
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80, number >> 7])
