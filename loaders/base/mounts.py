"""The storage that files are on: a local disk, a network, or memory."""

from __future__ import annotations

import os
from pathlib import Path

NETWORK = (
    "nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "glusterfs", "beegfs", "gpfs",
    "virtiofs", "fuse.sshfs", "fuse.gcsfuse", "fuse.s3fs", "fuse.glusterfs",
)  # fmt: skip
MEMORY = ("tmpfs", "ramfs")
LOCAL = (
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "bcachefs", "vfat", "ntfs3",
)  # fmt: skip


def storage_kind(path: str | os.PathLike[str]) -> str | None:
    """The storage of a file: `local`, `network` or `memory`; None if unknown."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fs_type = file_system(os.fspath(path), mounts)
    for kind, file_systems in (("network", NETWORK), ("memory", MEMORY), ("local", LOCAL)):
        if fs_type in file_systems:
            return kind
    return None


def file_system(path: str, mounts: str) -> str | None:
    r"""The type of the file system that a file is on, from /proc/self/mounts.

    >>> mounts = "/dev/a / ext4 rw 0 0\nserver:/x /data nfs4 rw 0 0\ntmpfs /data/tmp tmpfs rw 0 0"
    >>> file_system("/data/logs/1.parquet", mounts), file_system("/database/1", mounts)
    ('nfs4', 'ext4')
    """
    deepest: tuple[int, str] | None = None  # length of the mount point, type
    real = Path(os.path.realpath(path))
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 2:  # noqa: PLR2004 - device, mount point, type
            mount = fields[1].replace("\\040", " ")
            if real.is_relative_to(mount) and (deepest is None or len(mount) >= deepest[0]):
                deepest = (len(mount), fields[2])
    return None if deepest is None else deepest[1]
