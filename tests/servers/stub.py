"""A store that only lists: any number of keys, without objects."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs, quote
from xml.sax.saxutils import escape

from .faults import error_answer
from .host import Call
from .running import Service
from .wire import until

MOST_KEYS = 1000  # of a page, as of S3
FIRST_DAY = date(2020, 1, 1)
MODIFIED = "2025-01-01T00:00:00.000Z"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n"
XML = b'<?xml version="1.0" encoding="UTF-8"?>\n'
RESULT = b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'

Layout = Callable[[date, int], str]


def nested(day: date, part: int) -> str:
    """A folder for each year, month and day."""
    return f"prices/{day:%Y/%m/%d}/part-{part:05}.parquet"


def hive(day: date, part: int) -> str:
    """A partition of Hive for each day."""
    return f"prices/date={day}/part-{part:04}.parquet"


def flat(day: date, part: int) -> str:
    """One folder, with the day in the names."""
    return f"prices/prices_{day:%Y%m%d}_{part:04}.parquet"


def generated(number: int, layout: Layout, *, per_day: int = 100) -> list[str]:
    """Keys of `number` files, `per_day` of each day."""
    return [
        layout(FIRST_DAY + timedelta(days=index // per_day), index % per_day)
        for index in range(number)
    ]


@dataclass
class Stub(Service):
    """Answers ListObjectsV2, the same of every bucket. Signatures are not checked.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
    """

    keys: Sequence[str]
    """in any order"""
    delay_s: float = 0.0
    """from a request's head to the first byte of its answer"""
    size: int = 47_000
    """of each object"""

    def __post_init__(self) -> None:
        self.keys = sorted(self.keys)  # as their UTF-8 bytes sort, which is the order of S3
        self._plain = [_entry(key, escape(key), self.size) for key in self.keys]

    @cached_property
    def _quoted(self) -> list[bytes]:
        """The entries for `encoding-type=url`, which boto3 asks for."""
        return [_entry(key, quote(key), self.size) for key in self.keys]

    async def answer(self, call: Call) -> bool:
        """Answer with a page of keys, or with an error."""
        request = call.request
        bucket, _, key = request.path.strip("/").partition("/")
        asked = {name: values[0] for name, values in parse_qs(request.query).items()}
        if request.method != "GET" or not bucket or key or asked.get("list-type") != "2":
            answer = 501, *error_answer(request, 501)
        else:
            try:
                body = self._listing(bucket, asked)
            except ValueError:  # a number or a token that is none
                answer = 400, *error_answer(request, 400)
            else:
                answer = 200, OK % len(body), body
        await until(request.started + self.delay_s)
        await call.answer(*answer)
        return True

    def _listing(self, bucket: str, asked: dict[str, str]) -> bytes:
        if token := asked.get("continuation-token"):
            start = int(token)
        else:
            start = bisect_right(self.keys, asked.get("start-after", ""))
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        most = min(int(asked.get("max-keys", MOST_KEYS)), MOST_KEYS)
        page = page_of(self.keys, prefix=prefix, delimiter=delimiter, start=start, most=most)
        encoding = asked.get("encoding-type") or None
        said = quote if encoding == "url" else escape
        entries = self._quoted if encoding == "url" else self._plain
        facts = {
            "Name": bucket,
            "Prefix": said(prefix),
            "Delimiter": said(delimiter) or None,
            "StartAfter": said(asked.get("start-after", "")) or None,
            "ContinuationToken": token,
            "NextContinuationToken": page.rest,
            "EncodingType": encoding,
            "KeyCount": len(page.keys) + len(page.common),
            "MaxKeys": most,
            "IsTruncated": str(page.rest is not None).lower(),
        }
        named = (f"<{name}>{fact}</{name}>" for name, fact in facts.items() if fact is not None)
        common = (f"<CommonPrefixes><Prefix>{said(one)}</Prefix></CommonPrefixes>"
                  for one in page.common)  # fmt: skip
        listed = (entries[index] for index in page.keys)
        parts = [XML, RESULT, "".join(named).encode(), *listed, "".join(common).encode()]
        return b"".join([*parts, b"</ListBucketResult>"])

    def settings(self) -> dict[str, Any]:
        """Settings for a copy in another process, as JSON types."""
        return {"keys": list(self.keys), "delay_s": self.delay_s, "size": self.size}


@dataclass(frozen=True)
class Page:
    """A part of a listing."""

    keys: Sequence[int]
    """indexes of the keys"""
    common: list[str]
    """common prefixes"""
    rest: int | None
    """index of the key with which the next page begins. None: there is no next page"""


def page_of(keys: Sequence[str], *, prefix: str, delimiter: str, start: int, most: int) -> Page:
    """A page of sorted keys.

    Args:
        keys: sorted.
        prefix: all that is listed begins with it.
        delimiter: keys that have it after the prefix are listed as one common prefix, up to it.
        start: index of the first key that may be listed.
        most: keys and common prefixes at the most.
    """
    at = max(start, bisect_left(keys, prefix))
    end = bisect_left(keys, _beyond(prefix)) if prefix else len(keys)
    if not delimiter:
        stop = max(at, min(at + most, end))
        return Page(range(at, stop), [], stop if most and stop < end else None)
    single: list[int] = []
    common: list[str] = []
    while at < end and len(single) + len(common) < most:
        found = keys[at].find(delimiter, len(prefix))
        if found < 0:
            single.append(at)
            at += 1
        else:
            common.append(keys[at][: found + len(delimiter)])
            at = bisect_left(keys, _beyond(common[-1]), at)
    return Page(single, common, at if most and at < end else None)


def _beyond(prefix: str) -> str:
    """The first text after all that begin with a prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _entry(key: str, written: str, size: int) -> bytes:
    tag = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
    return (
        f"<Contents><Key>{written}</Key><LastModified>{MODIFIED}</LastModified>"
        f"<ETag>&quot;{tag}&quot;</ETag><Size>{size}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    ).encode()
