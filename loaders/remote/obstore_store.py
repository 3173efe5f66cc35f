"""Buckets that obstore reads."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..base.errors import InputError
from .faults import fault_of
from .library import obstore
from .options import Options, check_endpoint
from .store import PAGE, Body, Span
from .urls import RemotePath, split_url

_IN_ORDER = ("s3", "gs")
"""Schemes whose listings are in the order of keys and may begin at any of them."""
_WEAK = 'W/"'
"""The beginning of an ETag of equal contents but perhaps different bytes; no condition takes it."""
_UNKNOWN = re.compile(r"Configuration key: '([a-z0-9_]+)' is not valid")
_AWS_FILES = ("~/.aws/credentials", "~/.aws/config")


class ObstoreStore:
    """A bucket that obstore reads.

    Its own retries are off: they cannot be counted.
    """

    def __init__(self, root: str, options: Options) -> None:
        self._root = root
        scheme = split_url(root).scheme
        self.pages = scheme in _IN_ORDER
        self._obstore = obstore()
        self._store = _open(self._obstore, root, options)

    def get(self, key: str, span: Span | None, version: str | None) -> Body:
        """As in `Store`."""
        options: dict[str, Any] = {}
        if version is not None and not version.startswith(_WEAK):  # else the answer is compared
            options["if_match"] = f'"{version}"'
        if span is not None and span.start < 0:
            options["range"] = {"suffix": -span.start}
        elif span is not None:
            options["range"] = (span.start, span.stop)
        with _faults():
            result = self._obstore.get(self._store, key, options=options)
            meta, (start, stop) = result.meta, result.range
            data = bytes(result.bytes())
        if len(data) != stop - start:
            raise fault_of(ConnectionError("incomplete body"))
        version = _unquoted(meta["e_tag"])
        return Body(
            data, start, meta["size"], version, 0 if version else _ns(meta["last_modified"])
        )

    def page(self, prefix: str, after: str) -> list[RemotePath]:
        """As in `Store`."""
        with _faults():
            listing = self._obstore.list(
                self._store, prefix or None, offset=after or None, chunk_size=PAGE,
                return_arrow=True,
            )  # fmt: skip
            return self._paths(next(listing, None))

    def all(self, prefix: str) -> Iterator[list[RemotePath]]:
        """As in `Store`."""
        with _faults():
            for chunk in self._obstore.list(
                self._store, prefix or None, chunk_size=PAGE, return_arrow=True
            ):
                yield self._paths(chunk)

    def folders(self, prefix: str) -> tuple[list[str], list[RemotePath]]:
        """As in `Store`."""
        with _faults():
            found = self._obstore.list_with_delimiter(
                self._store, prefix or None, return_arrow=True
            )
        return list(found["common_prefixes"]), self._paths(found["objects"])

    def put(self, key: str, data: bytes) -> None:
        """As in `Store`."""
        with _faults():
            self._obstore.put(self._store, key, data, use_multipart=False)

    def _paths(self, objects: Any) -> list[RemotePath]:
        """The objects in an answer, which is an Arrow table: dicts take twice as long."""
        if objects is None:
            return []
        table = pa.table(objects)
        tags = table.column("e_tag").to_pylist()
        if table.column("e_tag").null_count:
            times = table.column("last_modified").cast(pa.timestamp("ns", "UTC")).cast("int64")
            modified_ns = times.to_pylist()
        else:  # an ETag tells versions apart; converting the times takes as long as all else
            modified_ns = [0] * len(tags)
        urls = map(f"{self._root}/".__add__, table.column("path").to_pylist())
        sizes = table.column("size").to_pylist()
        return list(map(RemotePath, urls, sizes, map(_unquoted, tags), modified_ns))


@contextmanager
def _faults() -> Iterator[None]:
    """Turn a store's error, whose text may hold secrets, into a `Fault`."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - obstore's errors have no base of their own
        raise fault_of(error) from None


def _open(obstore: Any, root: str, options: Options) -> Any:
    """Open a bucket with obstore.

    Raises:
        InputError: an option that the store does not have, or a value it does not take.
    """
    config = dict(options.store)
    client = config.pop("client_options", {})
    if not isinstance(client, dict):
        raise InputError("storage option client_options is no dict")
    client = dict(client)
    limits = options.limits
    client.setdefault("connect_timeout", dt.timedelta(seconds=limits.connect_s))
    client.setdefault("read_timeout", dt.timedelta(seconds=limits.stall_s))
    client.setdefault("timeout", dt.timedelta(seconds=limits.request_s))
    if "allow_http" in config:
        client["allow_http"] = config.pop("allow_http")
    keywords: dict[str, Any] = {}
    scheme = split_url(root).scheme
    if scheme == "s3":
        _complete_s3(config, client, keywords)
    if scheme == "http":
        client["allow_http"] = True
    try:
        return obstore.store.from_url(
            root, config=config, client_options=client,
            retry_config={"max_retries": 0}, **keywords,
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001 - its text may hold the value of an option
        unknown = _UNKNOWN.search(str(error))
        if unknown is not None and unknown[1] in config:
            raise InputError(
                f"storage_options has an unknown option {unknown[1]!r} for {root}; docs/"
                "object-stores.md and the documentation of obstore list them"
            ) from None
        names = ", ".join(sorted(config)) or "none"
        needs = " (AZURE_STORAGE_ACCOUNT_NAME)" if scheme in {"az", "abfs"} else ""
        raise InputError(
            f"cannot open {root}: {type(error).__name__} for its options (given: {names}); check "
            f"the names and values in storage_options and in the environment{needs}"
        ) from None


def _complete_s3(config: dict[str, Any], client: dict[str, Any], keywords: dict[str, Any]) -> None:
    """Add what the environment and files of AWS say and obstore does not read."""
    endpoint = config.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL_S3")
    if endpoint:
        config["endpoint"] = endpoint
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT")
    check_endpoint(endpoint, "the endpoint of S3 (AWS_ENDPOINT_URL)")
    if str(endpoint or "").startswith("http://"):
        client.setdefault("allow_http", True)
    has_region = {"AWS_REGION", "AWS_DEFAULT_REGION"} & os.environ.keys()
    has_keys = "access_key_id" in config or "AWS_ACCESS_KEY_ID" in os.environ
    unsigned = config.get("skip_signature") or os.environ.get("AWS_SKIP_SIGNATURE")
    if has_keys or unsigned or not _has_aws_files():
        return
    try:
        from boto3.session import Session
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return  # the roles of a machine or a cluster are left, which obstore knows
    session = Session()
    if session.get_credentials() is not None:
        keywords["credential_provider"] = Boto3CredentialProvider(session)
        if "region" not in config and not has_region and session.region_name:
            config["region"] = session.region_name


def _has_aws_files() -> bool:
    names = ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE")
    named = [os.environ[name] for name in names if name in os.environ]
    return "AWS_PROFILE" in os.environ or any(
        Path(path).expanduser().is_file() for path in (*named, *_AWS_FILES)
    )


def _unquoted(tag: str | None) -> str | None:
    """An ETag without quotes, which some stores leave out of listings."""
    return tag.removeprefix('"').removesuffix('"') if tag else None


def _ns(modified: dt.datetime | None) -> int:
    if modified is None:
        return 0
    return int(modified.timestamp()) * 10**9 + modified.microsecond * 1000
