"""Files and objects as tests change them: by their path, on disk or in a bucket."""

import os
from functools import cache
from pathlib import Path

from feedrate.loaders.remote.urls import RemotePath, split_url


def read_bytes(path):
    """The contents of a file or an object."""
    if isinstance(path, RemotePath):
        import obstore

        return bytes(obstore.get(_bucket(path), split_url(path).key).bytes())
    return Path(path).read_bytes()


def write_bytes(path, data):
    """Write a file, with its folder, or an object."""
    if isinstance(path, RemotePath):
        import obstore

        obstore.put(_bucket(path), split_url(path).key, data, use_multipart=False)
    else:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)


def remove(path):
    """Delete a file or an object."""
    if isinstance(path, RemotePath):
        import obstore

        obstore.delete(_bucket(path), split_url(path).key)
    else:
        Path(path).unlink()


def _bucket(path):
    """The bucket, as the environment says how to reach it."""
    return _opened(split_url(path).root, os.environ["AWS_ENDPOINT_URL"])


@cache
def _opened(root, endpoint):
    from obstore.store import from_url  # 10 ms each time

    return from_url(root, endpoint=endpoint)
