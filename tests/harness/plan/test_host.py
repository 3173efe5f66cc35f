"""What planning needs to know of the machine that trials run on."""

import msgspec
import pytest
from feedrate.harness.plan.host import Host, are_alike
from feedrate.loaders.base.errors import InputError, MissingBackendError
from feedrate.loaders.base.machine import fingerprint


def test_machines_of_one_kind_may_differ_a_little_in_memory_and_in_packages_of_one():
    here = fingerprint()
    near = msgspec.structs.replace(here, memory_bytes=int(here.memory_bytes * 1.01))
    more = msgspec.structs.replace(here, versions={**here.versions, "another": "1.0"})
    assert are_alike(here, near)
    assert are_alike(here, more)
    for field, value in (
        ("memory_bytes", 2 * here.memory_bytes),
        ("effective_cpus", here.effective_cpus + 1),
        ("gpu", "another"),
        ("versions", {**here.versions, "numpy": "0.1"}),
    ):
        assert not are_alike(here, msgspec.structs.replace(here, **{field: value}))


def test_backends_are_those_of_the_host():
    there = Host(fingerprint(), 1 << 30, frozenset({"original"}), "gpu-7")
    assert there.backend("auto").name == "original"
    with pytest.raises(MissingBackendError, match="not installed on gpu-7"):
        there.backend("pytorch")
    with pytest.raises(InputError, match="unknown backend"):
        there.backend("nothing")
