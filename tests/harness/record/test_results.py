import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from feedrate.harness.record.journal import Journal
from feedrate.harness.record.results import VERSION, Header, Results, Sample, read_results
from feedrate.loaders.base.errors import DocumentError, InputError, StorageError
from feedrate.loaders.base.machine import fingerprint
from feedrate.loaders.parquet.dataset import describe

from ... import samples

DATASET = describe([])
MACHINE = fingerprint()


def header(**changes):
    fields = {"spec": {"job": ["frame"]}, "environment": MACHINE, "dataset": DATASET}
    return Header(**fields | changes)


def sample(trial="a1", **changes):
    fields = {
        "num_workers": 12,
        "files": 365,
        "turn": 2,
        "rows": 336_776,
        "fingerprint": "ü7f",
        "metrics": {"h2d_bytes": None},
        "reasons": {"h2d_bytes": "no CUDA device"},
    }
    return samples.sample(0.125, trial=trial, **fields | changes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.jsonl"


@pytest.fixture
def content(path):
    with Journal.create(path, header()) as journal:
        for trial in "abc":
            journal.append(sample(trial))
    return path.read_bytes()


def test_what_was_written_is_read_back_equal(path):
    start = header()
    samples = [sample("a"), sample("b", arm="base", launch=3, rows=None, verdict="hang")]
    with Journal.create(path, start) as journal:
        for one in samples:
            journal.append(one)
    assert read_results(path) == Results(start, samples, truncated=False)


def test_lines_are_plain_json_with_the_documented_names(content):
    first, second = map(json.loads, content.splitlines()[:2])
    assert list(first)[:2] == ["format", "version"]
    assert (first["format"], first["version"]) == ("feedrate-results", VERSION)
    assert first["created"].endswith("+00:00")
    assert {
        "trial",
        "job",
        "backend",
        "settings",
        "files",
        "phase",
        "arm",
        "round",
        "pass",
        "rows",
        "fingerprint",
        "verdict",
        "metrics",
        "reasons",
    } <= second.keys()
    assert second["settings"]["num_workers"] == 12


def test_samples_are_in_the_file_before_it_is_closed(path):
    journal = Journal.create(path, header())
    journal.append(sample())
    assert len(read_results(path).samples) == 1
    journal.close()
    journal.close()


def test_a_journal_cut_at_any_byte_gives_its_whole_samples_and_can_be_resumed(path, content):
    whole = msgspec.json.Decoder(Sample)
    lines = content.splitlines(keepends=True)
    assert len(lines) == 4
    ends = [sum(map(len, lines[: i + 1])) for i in range(len(lines))]
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        if cut < ends[0] - 1:
            with pytest.raises(DocumentError, match="empty" if cut == 0 else "header is cut off"):
                read_results(path)
            continue
        # A line that lacks nothing but its end is whole.
        expected = [
            whole.decode(line)
            for line, end in zip(lines[1:], ends[1:], strict=True)
            if cut >= end - 1
        ]
        results = read_results(path)
        assert results.samples == expected
        assert results.truncated == (cut not in {*ends, *(end - 1 for end in ends)})
        journal, resumed = Journal.resume(path)
        with journal:
            journal.append(sample("new"))
        assert resumed == results
        again = read_results(path)
        assert again == Results(results.header, [*expected, sample("new")], truncated=False)


def test_a_killed_writer_leaves_whole_lines(path):
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "written\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    results = read_results(path)
    assert not results.truncated
    assert len(results.samples) == 20


KILLED = """
import sys, time
import msgspec
from feedrate.harness.record.journal import Journal
from feedrate.harness.record.results import Header, Sample
from feedrate.loaders.parquet.dataset import describe
from feedrate.loaders.base.machine import fingerprint
journal = Journal.create(
    sys.argv[1], Header(spec={}, environment=fingerprint(), dataset=describe([]))
)
for i in range(20):
    journal.append(msgspec.convert(dict(
        trial=str(i), job='frame', backend='x', settings={}, files=1, phase='confirming', round=0,
        rows=1, fingerprint=None, verdict='ok', metrics={}, reasons={}, **{'pass': 0}), Sample))
print('written', flush=True)
time.sleep(60)
"""


def test_numbers_that_are_not_finite_become_none_with_a_reason(path):
    odd = {"wall_s": math.nan, "cpu_s": math.inf, "wait_s": -math.inf, "h2d_bytes": 1.5}
    with Journal.create(path, header()) as journal:
        journal.append(sample(metrics=odd, reasons={"wait_s": "known"}))
    (read,) = read_results(path).samples
    assert read.metrics == {"wall_s": None, "cpu_s": None, "wait_s": None, "h2d_bytes": 1.5}
    assert read.reasons == {
        "wall_s": "came out as nan",
        "cpu_s": "came out as inf",
        "wait_s": "known",
    }


def test_an_existing_journal_is_not_overwritten_unless_told(path, content):
    with pytest.raises(InputError, match="--resume"):
        Journal.create(path, header())
    assert path.read_bytes() == content
    Journal.create(path, header(), overwrite=True).close()
    assert read_results(path).samples == []


def test_an_empty_file_may_become_a_journal(path):
    path.touch()
    Journal.create(path, header()).close()
    assert read_results(path).samples == []


def test_places_that_cannot_be_written_are_said_in_one_sentence(tmp_path):
    with pytest.raises(StorageError, match=r"there is no folder .*missing; create it"):
        Journal.create(tmp_path / "missing" / "r.jsonl", header())
    with pytest.raises(StorageError, match="Is a directory"):
        Journal.create(tmp_path, header())
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Not a directory"):
        Journal.create(tmp_path / "file" / "r.jsonl", header())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_a_storage_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        Journal.create(tmp_path / "r.jsonl", header())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_storage_error():
    message = r"^cannot write /dev/full: No space left on device; earlier samples are kept$"
    with pytest.raises(StorageError, match=message):
        Journal.create("/dev/full", header())


def test_a_cut_off_line_that_cannot_be_removed_is_a_storage_error(path, content, monkeypatch):
    path.write_bytes(content[:-5])

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(StorageError, match=r"^cannot write .*: Input/output error$"):
        Journal.resume(path)


def test_a_header_that_is_not_json_leaves_no_file(path):
    with pytest.raises(TypeError):
        Journal.create(path, header(spec={"path": object()}))
    assert not path.exists()


def test_a_closed_journal_says_so(path):
    journal = Journal.create(path, header())
    journal.close()
    with pytest.raises(StorageError, match="is closed"):
        journal.append(sample())


@pytest.mark.parametrize("read", [read_results, Journal.resume])
def test_a_missing_file_and_a_folder_are_storage_errors(read, tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(StorageError, match="Is a directory"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"hello\n", "its first line is not JSON"),
        (b"hello", "its first line is not JSON"),
        (b"PK\x03\x04\xff\xfe", "its first line is not JSON"),
        (b"\x80\x04K\x01.", "its first line is not JSON"),
        (b"[" * 200_000, "its first line is not JSON"),
        (b"[1, 2]\n", "is some other JSON"),
        (b"3", "is some other JSON"),
        (b'{"name": "benchmark"}\n', "is some other JSON"),
        (b'{\n  "format": "feedrate-profile",\n  "version": 1\n}\n', "a feedrate-profile document"),
        (b'{"format": "feedrate-results"}\n', "results version None, and"),
        (b'{"format": "feedrate-results", "version": "1"}\n', "has results version '1', and"),
        (b'{"format": "feedrate-results", "version": true}\n', "has results version True, and"),
        (b'{"format": "feedrate-results", "version": 0}\n', "has results version 0, and"),
        (b'{"format": "feedrate-results", "version": 4}\n', "newer feedrate .* upgrade feedrate"),
        (b'{"format": "feedrate-results", "version": 2}\n', "version 2, .* reads 3; measure again"),
        (b'{"format": "feedrate-results", "version": 3}\n', "line 1: .*missing required field"),
    ],
)
def test_what_is_no_journal_is_named_for_what_it_is(path, text, message):
    path.write_bytes(text)
    for read in (read_results, Journal.resume):
        with pytest.raises(DocumentError, match=message):
            read(path)
    assert path.read_bytes() == text


def places(document, where=()):
    """The ways to each value of a document."""
    if isinstance(document, dict | list):
        items = document.items() if isinstance(document, dict) else enumerate(document)
        for key, value in items:
            yield from places(value, (*where, key))
    elif where:
        yield where


def with_value(document, way, value):
    """The document with another value in one place."""
    *above, last = way
    inner = document
    for key in above:
        inner = inner[key]
    inner[last] = value
    return document


def said_of(path):
    try:
        read_results(path)
    except DocumentError as error:
        return [str(error)]
    return []


@pytest.mark.usefixtures("content")
def test_a_huge_number_anywhere_is_not_printed_whole(path):
    lines = path.read_bytes().splitlines()
    told = []
    for number, line in enumerate(lines[:2]):
        for way in places(json.loads(line)):
            changed = json.dumps(with_value(json.loads(line), way, 10**400)).encode()
            path.write_bytes(b"\n".join([*lines[:number], changed, *lines[number + 1 :]]))
            told += said_of(path)
    assert len(told) > 5
    assert not [text for text in told if "0" * 50 in text]


def test_two_processes_do_not_measure_into_one_file(path, content):
    first, _ = Journal.resume(path)
    with first:
        for again in (Journal.resume, lambda file: Journal.create(file, header(), overwrite=True)):
            with pytest.raises(InputError, match="another feedrate is writing to"):
                again(path)
        first.append(sample("d"))
    assert path.read_bytes().startswith(content)
    second, results = Journal.resume(path)
    second.close()
    assert [one.trial for one in results.samples] == ["a", "b", "c", "d"]


def test_a_newer_version_is_recognised_whatever_else_changed(path):
    path.write_text('{"format":"feedrate-results","version":7,"shape":[1]}\n{"new":1}\n')
    with pytest.raises(DocumentError, match=r"results version 7, this one reads 3"):
        read_results(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rows", "many", r"line 3: .*Expected `int \| null`, got `str` - at `\$.rows`"),
        ("verdict", "fine", r"line 3: .*Invalid enum value 'fine' - at `\$.verdict`"),
        ("metrics", {"wall_s": "1"}, r"line 3: .*at `\$.metrics"),
        ("settings", {"num_workers": -1}, r"line 3: .*num_workers is -1"),
        ("settings", {"num_worker": 1}, r"line 3: .*unknown field `num_worker`"),
        ("pass", None, r"line 3: .*at `\$.pass`"),
    ],
)
def test_wrong_types_are_reported_with_line_and_field(path, content, field, value, message):
    lines = content.splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | {field: value}).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(DocumentError, match=message):
        read_results(path)


@pytest.mark.parametrize("damage", [b'{"trial": "a", "jo', b"\x00\x00\x00", b"}", b'"\xff"'])
def test_a_damaged_line_in_the_middle_is_an_error_and_not_skipped(path, content, damage):
    lines = content.splitlines()
    lines[2] = damage
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(DocumentError, match="line 3"):
        read_results(path)


def test_zeros_that_a_crashed_machine_left_at_the_end_are_cut_off(path, content):
    path.write_bytes(content + b"\x00" * 300)
    assert read_results(path).truncated
    Journal.resume(path)[0].close()
    assert path.read_bytes() == content


def test_a_blank_line_at_the_end_is_no_damage(path, content):
    path.write_bytes(content + b"\n")
    results = read_results(path)
    assert (len(results.samples), results.truncated) == (3, False)


def test_fields_that_a_later_feedrate_adds_are_passed_over(path, content):
    lines = content.splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | {"mood": "good"}).encode()
    path.write_bytes(b"\n".join(lines))
    assert len(read_results(path).samples) == 3
