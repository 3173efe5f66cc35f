"""Stores that pyarrow or fsspec read, such as HDFS."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from ..base.errors import InputError, MissingBackendError
from .faults import Fault, fault_of
from .options import Options
from .store import Body, Span, bounds
from .urls import RemotePath, split_url

_NATIVE = ("s3", "gs", "abfs", "hdfs", "viewfs")
"""Schemes that pyarrow reads itself."""
_S3_OPTIONS = {
    "access_key_id": "access_key", "secret_access_key": "secret_key",
    "session_token": "session_token", "region": "region",
    "endpoint": "endpoint_override", "skip_signature": "anonymous",
}  # fmt: skip


class ArrowStore:
    """A store that pyarrow or fsspec reads.

    It has no ETags: a version is the size and the time of the last change, checked before and after
    each read.
    """

    pages = False

    def __init__(self, root: str, options: Options) -> None:
        self._root = root
        self._fs = filesystem(root, options)
        place = split_url(root).place
        self._place = place if split_url(root).scheme not in {"hdfs", "viewfs"} else ""

    def get(self, key: str, span: Span | None, version: str | None) -> Body:
        """As in `Store`."""
        with _faults():
            info = self._info(key)
            if version is not None and _version(info) != version:
                raise Fault("changed", "it was replaced while it was being read")
            start, stop = bounds(span, info.size)
            with self._fs.open_input_file(info.path) as file:
                file.seek(start)
                data = file.read(stop - start)
            if _version(self._info(key)) != _version(info):
                raise Fault("changed", "it was replaced while it was being read")
        if len(data) != stop - start:
            raise fault_of(ConnectionError("incomplete body"))
        return Body(data, start, info.size, _version(info), info.mtime_ns or 0)

    def page(self, prefix: str, after: str) -> list[RemotePath]:
        """Not available: listings have no order."""
        raise NotImplementedError(prefix, after)

    def all(self, prefix: str) -> Iterator[list[RemotePath]]:
        """As in `Store`."""
        with _faults():
            found = self._fs.get_file_info(
                pafs.FileSelector(self._path(prefix), allow_not_found=True, recursive=True)
            )
        yield self._paths(found)

    def folders(self, prefix: str) -> tuple[list[str], list[RemotePath]]:
        """As in `Store`."""
        with _faults():
            found = self._fs.get_file_info(
                pafs.FileSelector(self._path(prefix), allow_not_found=True)
            )
        folders = [self._key(info) for info in found if info.type == pafs.FileType.Directory]
        return folders, self._paths(found)

    def put(self, key: str, data: bytes) -> None:
        """As in `Store`."""
        path = self._path(key)
        with _faults():
            self._fs.create_dir(path.rpartition("/")[0])
            with self._fs.open_output_stream(path) as file:
                file.write(data)

    def _path(self, key: str) -> str:
        return "/".join(part for part in (self._place, key) if part) if self._place else f"/{key}"

    def _key(self, info: pafs.FileInfo) -> str:
        path: str = info.path.strip("/")
        return path.removeprefix(f"{self._place}/") if self._place else path

    def _info(self, key: str) -> pafs.FileInfo:
        info = self._fs.get_file_info(self._path(key))
        if info.type != pafs.FileType.File:
            raise Fault("missing", "it does not exist")
        return info

    def _paths(self, found: list[pafs.FileInfo]) -> list[RemotePath]:
        return [
            RemotePath(
                f"{self._root}/{self._key(info)}", info.size, _version(info), info.mtime_ns or 0
            )
            for info in found
            if info.type == pafs.FileType.File
        ]


def filesystem(root: str, options: Options) -> pafs.FileSystem:
    """The file system that pyarrow has for a bucket, or else fsspec.

    Raises:
        InputError: no package reads this scheme, or an option is wrong.
        MissingBackendError: fsspec, or what it needs for the scheme, is not installed.
    """
    scheme = split_url(root).scheme
    try:
        if scheme == "s3":
            return _s3(options)
        if scheme in _NATIVE and not options.store:
            return pafs.FileSystem.from_uri(root)[0]
        return _by_fsspec(root, options)
    except ImportError as error:
        raise MissingBackendError(
            f"{scheme}:// cannot be read: {error.msg or 'fsspec is not installed'}; install what "
            "is missing with pip"
        ) from None
    except (pa.ArrowException, ValueError, TypeError, OSError) as error:
        if scheme not in _NATIVE and isinstance(error, ValueError):
            raise InputError(
                f"{scheme}:// is no scheme that obstore, pyarrow or fsspec know; docs/"
                "object-stores.md lists those"
            ) from None
        raise InputError(
            f"cannot open {root}: {type(error).__name__}; check its address and the options of "
            "the store"
        ) from None


def _s3(options: Options) -> pafs.FileSystem:
    given = {
        _S3_OPTIONS[name]: value for name, value in options.store.items() if name in _S3_OPTIONS
    }
    endpoint = given.get("endpoint_override") or os.environ.get(
        "AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL")
    )
    if endpoint:
        scheme, _, host = str(endpoint).rpartition("://")
        given["endpoint_override"] = host
        given["scheme"] = scheme or "https"
    if os.environ.get("AWS_REGION"):
        given.setdefault("region", os.environ["AWS_REGION"])
    # The SDK gives up after 3 s without a byte, which a busy machine may take.
    given.setdefault("request_timeout", options.limits.stall_s)
    given.setdefault("connect_timeout", options.limits.connect_s)
    return pafs.S3FileSystem(**given)


def _by_fsspec(root: str, options: Options) -> pafs.FileSystem:
    import fsspec

    fs: Any = fsspec.filesystem(split_url(root).scheme, **options.given)
    return pafs.PyFileSystem(pafs.FSSpecHandler(fs))


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except Fault:
        raise
    except Exception as error:  # noqa: BLE001 - fsspec has implementations with errors of their own
        raise fault_of(error) from None


def _version(info: pafs.FileInfo) -> str:
    return f"{info.size}-{info.mtime_ns or 0}"
