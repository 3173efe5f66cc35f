"""The command line through its entry point, in process where that is enough."""

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
import pandas as pd
import psutil
import pytest
from feedrate.harness.cli import app as cli
from feedrate.harness.cli import measure_commands
from feedrate.harness.in_process import in_process
from feedrate.harness.record.results import read_results
from feedrate.harness.run.costs import Costs
from feedrate.harness.show.terminal import as_text
from feedrate.loaders import OptimizedHistoricalDataLoader, ParquetStorage, Profile
from feedrate.loaders.base.errors import FeedrateError
from feedrate.loaders.base.homes import profile_home
from feedrate.loaders.base.schedule import ThreadScheduler
from feedrate.loaders.base.warn import warn
from feedrate.loaders.caching.disk import DiskCache
from feedrate.loaders.frames.reader import FrameReader
from rich.text import Text

QUICK = ["--backends", "original", "--files", "2", "--repeats", "1", "--passes", "1"]
TUNE = [*QUICK, "--budget", "300s"]  # it is over much sooner


@pytest.fixture
def feedrate(monkeypatch, capsys):
    """Run the command, trials in this process; its exit code, stdout and stderr.

    No trial is explained, which takes two seconds; the command that `tuned` runs explains.
    """
    monkeypatch.setattr(Costs, "explaining", lambda *_: math.inf)
    for verb in ("tune", "sweep"):
        function = partial(getattr(measure_commands, verb), make_executor=in_process)
        monkeypatch.setattr(measure_commands, verb, function)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["feedrate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    return call


def one_sentence(err):
    lines = [line for line in err.splitlines() if line.startswith("feedrate: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def test_tune_prints_the_answer_on_stdout_and_where_things_are_on_stderr(tuned):
    results, profile, out, err = tuned
    assert "frame: use original" in out
    assert "Speedup" not in err
    assert f"results: {results}\n" in err
    assert str(profile) in err


def test_the_profile_is_obeyed_by_the_production_loader(tuned, storage):
    _, profile, _, _ = tuned
    loader = OptimizedHistoricalDataLoader(ParquetStorage(storage), profile=profile)
    assert loader.settings == Profile.load(profile).entry_for("frame").settings
    assert str(profile) in loader.explain()


def test_without_a_named_file_the_profile_goes_to_the_store_and_is_found(feedrate, storage):
    assert feedrate("tune", storage, *TUNE)[0] == 0
    loader = OptimizedHistoricalDataLoader(ParquetStorage(storage))
    assert loader.active_backend == "original"
    code, out, _ = feedrate("profile", "path", storage)
    assert code == 0
    assert out.strip() in loader.explain()
    assert "original" in feedrate("profile", "show", storage)[1]
    assert out.strip() in feedrate("profile", "list")[1]


def test_a_second_job_is_added_to_the_same_profile(feedrate, tuned, storage):
    results, profile, _, _ = tuned
    code, _, err = feedrate(
        "tune",
        storage,
        *TUNE,
        "--job",
        "stream",
        "--profile",
        profile,
        "--results",
        results.with_name("s.jsonl"),
    )
    assert code == 0, err
    assert {entry.job for entry in Profile.load(profile).entries} == {"frame", "stream"}


def test_json_is_one_document(feedrate, storage, tmp_path):
    code, out, _ = feedrate("tune", storage, *TUNE, "--json", "--profile", tmp_path / "p.json")
    assert code == 0
    assert json.loads(out)["recommendations"][0]["settings"]["backend"] == "original"


def test_sweep_measures_everything_and_writes_no_profile(feedrate, storage, tmp_path):
    results = tmp_path / "s.jsonl"
    code, out, _ = feedrate("sweep", storage, *QUICK, "--results", results)
    assert code == 0
    assert "frame job: 2 files" in out
    assert len(results.read_text().splitlines()) == 2


def test_recommend_reads_what_tune_measured(feedrate, tuned, tmp_path):
    results, *_ = tuned
    profile = tmp_path / "again.json"
    code, out, _ = feedrate("recommend", results, "--profile", profile)
    assert code == 0
    assert "frame: use original" in out
    assert Profile.load(profile).entry_for("frame").settings.backend == "original"


def test_report_writes_markdown_and_csv(feedrate, tuned, tmp_path):
    results, *_ = tuned
    markdown, csv = tmp_path / "r.md", tmp_path / "r.csv"
    assert feedrate("report", results, "--markdown", markdown, "--csv", csv)[0] == 0
    assert "original\\*" in markdown.read_text()
    table = pd.read_csv(csv)
    assert len(table) == len(results.read_text().splitlines()) - 1
    assert set(table["verdict"]) == {"ok"}


def test_report_fits_80_columns(feedrate, tuned):
    results, *_ = tuned
    code, out, _ = feedrate("report", results)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80


def test_resume_adds_only_what_is_missing(feedrate, storage, tmp_path):
    results = tmp_path / "r.jsonl"
    feedrate("sweep", storage, *QUICK, "--results", results)
    whole = results.read_bytes()
    assert feedrate("sweep", storage, *QUICK, "--results", results, "--resume")[0] == 0
    assert results.read_bytes() == whole


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["tune", "absent-folder"], "absent-folder"),
        (["tune", "{empty}"], "no Parquet"),
        (["tune", "{storage}", "--backends", "torch"], "pytorch"),
        (["tune", "{storage}", "--data-type", "log"], "logs"),
        (["tune", "{storage}", "--columns", "points,nope"], "nope"),
        (["tune", "{storage}", "--job", "batches", "--target", "player"], "player"),
        (["tune", "{storage}", "--job", "frames"], "frame"),
        (["tune", "{storage}", "--workers", "two"], "--workers"),
        (["tune", "{storage}", "--workers", "-1"], "--workers"),
        (["tune", "{storage}", "--cache", "ram"], "memory"),
        (["tune", "{storage}", "--budget", "soon"], "budget"),
        (["tune", "{storage}", "--timeout", "0s"], "timeout"),
        (["tune", "{storage}", "--max-memory", "lots"], "max_memory"),
        (["tune", "{storage}", "--profile", "{other}/p.json"], "cannot write profile"),
        (["tune", ""], "DATA is empty"),
        (["tune", "{storage}", "--workers", "100000"], "100000"),
        (["sweep", "{mixed}", "--job", "batches", "--backends", "original"], "column 'x'"),
        (["tune", "{storage}", "--target", ""], "unknown column"),
        (["tune", "{norows}"], "no rows"),
        (["recommend", "{other}", "--max-memory", "lots"], "feedrate-results"),
        (["tune", "{storage}", "--files", "99"], "only 12 files"),
        (["tune", "{storage}", "--repeats", "0"], "repeats"),
        (["tune", "{storage}", "--passes", "x"], "--passes"),
        (["tune", "{storage}", "--resume"], "--results"),
        (["tune", "{storage}", "--results", "{empty}"], "cannot write"),
        (["tune", "{storage}", "--results", "{other}"], "holds results already"),
        (["tune", "{storage}", "--profile", "{other}"], "no feedrate profile"),
        (["tune", "{storage}", "--spec", "absent.toml"], "absent.toml"),
        (["tune", "{storage}", "--nonsense"], "--nonsense"),
        (["tune"], "DATA"),
        (["tun"], "tun"),
        (["recommend", "{other}"], "feedrate-results"),
        (["recommend", "absent.jsonl"], "absent.jsonl"),
        (["report", "{other}"], "feedrate-results"),
        (["data", "flight", "x"], "flights"),
        (["data", "flights", "x", "--scale", "1"], "--scale"),
        (["data", "flights", "{other}"], "{other}"),
        (["data", "box-scores", "x", "--days", "0"], "0"),
        (["profile", "show", "{other}"], "no feedrate profile"),
        (["profile", "show", "absent.json"], "absent.json"),
        (["demo", "--out", "{other}"], "{other}"),
    ],
)
def test_bad_input_is_one_clear_sentence_and_exit_2(
    feedrate, storage, tmp_path, monkeypatch, arguments, names
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    other = tmp_path / "other.json"
    other.write_text('{"hello": 1}')
    (tmp_path / "norows").mkdir()
    pd.DataFrame({"x": [1.0]})[:0].to_parquet(tmp_path / "norows" / "a.parquet")
    (tmp_path / "mixed").mkdir()
    for name, values in (("a", [1.0]), ("b", [2.0]), ("c", ["text"]), ("d", [3.0]), ("e", [4.0])):
        pd.DataFrame({"x": values}).to_parquet(tmp_path / "mixed" / f"{name}.parquet")
    places = {
        "mixed": tmp_path / "mixed",
        "norows": tmp_path / "norows",
        "storage": storage,
        "empty": tmp_path / "empty",
        "other": other,
    }
    code, out, err = feedrate(*(item.format(**places) for item in arguments))
    assert code == 2
    assert out == ""
    assert names.format(**places) in one_sentence(err)
    assert other.read_text() == '{"hello": 1}'


def test_a_file_that_is_no_parquet_is_named_by_tune(feedrate, storage):
    bad = storage / "logs" / "logs_20250106.parquet"
    bad.write_bytes(b"nonsense")
    code, _, err = feedrate("tune", storage, "--backends", "original", "--repeats", "1")
    assert code == 2
    assert bad.name in one_sentence(err)


def test_newer_documents_say_upgrade(feedrate, tuned):
    results, profile, _, _ = tuned
    results.write_text(results.read_text().replace('"version":3', '"version":99', 1))
    profile.write_text(profile.read_text().replace('"version": 4', '"version": 99'))
    for arguments in (["report", results], ["recommend", results], ["profile", "show", profile]):
        code, _, err = feedrate(*arguments)
        assert code == 2
        assert "upgrade" in one_sentence(err)


def test_a_store_that_cannot_be_written_is_a_note_not_a_failure(
    feedrate, storage, tmp_path, monkeypatch
):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("FEEDRATE_HOME", str(blocked))
    code, out, err = feedrate("tune", storage, *TUNE)
    assert code == 0
    assert "frame: use" in out
    assert "not stored" in err
    recover = re.search(r"feedrate recommend (\S+) --profile FILE", err)
    assert feedrate("recommend", recover[1], "--profile", tmp_path / "p.json")[0] == 0


def test_a_budget_below_the_minimum_is_refused_and_leaves_no_file(feedrate, storage, tmp_path):
    journal = tmp_path / "r.jsonl"
    code, out, err = feedrate(
        "tune", storage, *QUICK, "--budget", "50ms", "--results", journal, "--no-profile"
    )
    assert (code, out) == (2, "")
    assert "the budget is 50.0 ms, and the minimum budget is about" in err
    assert re.search(r"Give --budget \d+s or more, or fewer jobs", err)
    assert not journal.exists()


def test_the_module_is_the_same_program():
    done = subprocess.run(
        [sys.executable, "-m", "feedrate.harness", "--version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.count(".") == 2


@pytest.mark.slow
def test_a_pipe_that_nobody_reads_changes_no_exit_code(tuned, storage):
    results, profile, *_ = tuned
    profile.write_text(
        re.sub(r'"effective_cpus": \d+', '"effective_cpus": 999', profile.read_text())
    )
    for arguments, code in (
        (["report", results], 0),
        (["report", results.with_name("none.jsonl")], 2),
        (["profile", "check", storage, "--profile", profile, "--json"], 1),
    ):
        read, write = os.pipe()
        os.close(read)  # so that the first write fails, as after `| head` has ended
        errors = write if code == 2 else subprocess.PIPE
        done = subprocess.run(
            [sys.executable, "-m", "feedrate.harness", *arguments],
            stdout=write, stderr=errors, text=True, check=False,
        )  # fmt: skip
        os.close(write)
        assert (done.returncode, done.stderr or "") == (code, "")


def test_functions_do_what_the_commands_do(storage, tmp_path):
    from feedrate.harness import recommend, sweep, tune

    results = tmp_path / "r.jsonl"
    fields = {"backends": ["original"], "files": [2], "repeats": 1, "passes": 1}
    fields["make_executor"] = in_process
    outcome = tune(storage, results=results, profile=tmp_path / "p.json", **fields)
    assert "frame: use original" in str(outcome)
    assert "| original" in outcome._repr_markdown_()
    again = recommend(results).profile.entry_for("frame").settings
    assert again == outcome.profile.entry_for("frame").settings
    swept = sweep(storage, results=tmp_path / "s.jsonl", **fields)
    assert swept.profile is None


def test_an_outcome_is_text_in_a_notebook_too(monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert as_text(Text("seen")) == "seen\n"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_processes_and_says_where_the_results_are_and_how_to_go_on(
    storage, tmp_path, number, status
):
    results = tmp_path / "r.jsonl"
    command = [
        sys.executable, "-m", "feedrate.harness", "sweep", str(storage), "--backends", "original",
        "--repeats", "10000", "--results", str(results),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if results.exists() and results.read_bytes().count(b"\n") > 4:
            break
        time.sleep(0.05)
    try:
        children = []
        while not children and process.poll() is None:  # between two launches there may be none
            children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()  # its rounds would take hours
    assert process.returncode == status
    assert "--resume" in err
    assert str(results) in err
    assert "Traceback" not in err
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert len(read_results(results).samples) >= 4


def test_what_a_new_profile_replaces_is_told(feedrate, tuned):
    results, profile, _, _ = tuned
    made = Profile.load(profile)
    entry = msgspec.structs.replace(
        made.entries[0],
        settings=msgspec.structs.replace(made.entries[0].settings, backend="tensorflow"),
    )
    msgspec.structs.replace(made, entries=[entry]).save(profile)
    code, _, err = feedrate("recommend", results, "--profile", profile)
    assert code == 0
    assert "was tensorflow" in err
    other = msgspec.structs.replace(made.machine, cpu_model="another")
    msgspec.structs.replace(made, machine=other).save(profile)
    assert "another machine" in feedrate("recommend", results, "--profile", profile)[2]


def test_a_profile_of_more_files_is_not_replaced_without_a_word(feedrate, tuned):
    results, profile, _, _ = tuned
    made = Profile.load(profile)
    more = msgspec.structs.replace(made.entries[0], files=1000)
    msgspec.structs.replace(made, entries=[more]).save(profile)
    _, _, err = feedrate("recommend", results, "--profile", profile)
    assert "measured on 1,000 files; it is replaced by the choice for 2 files" in err


def test_each_job_of_a_profile_keeps_its_own_date_and_command(feedrate, tuned):
    results, profile, _, _ = tuned
    made = Profile.load(profile)
    batches = msgspec.structs.replace(made.entries[0], job="batches")
    earlier = msgspec.structs.replace(
        made, created="2020-01-02", command="feedrate tune then", entries=[batches]
    )
    earlier.save(profile)
    feedrate("recommend", results, "--profile", profile)
    _, out, _ = feedrate("profile", "show", profile)
    assert "made 2020-01-02, by: feedrate tune then" in out
    assert f"made     {made.created}, by: feedrate recommend" in out


def test_results_are_chosen_from_again_by_another_objective(feedrate, tuned):
    results, *_ = tuned
    for flag, value, told in (("objective", "speed", "'speed'"), ("tie", "0.5", "tie is 0.5")):
        code, _, err = feedrate("recommend", results, f"--{flag}", value)
        assert code == 2
        assert told in one_sentence(err)
    code, out, err = feedrate(
        "recommend", results, "--objective", "memory", "--tie", "1.1", "--json"
    )
    assert code == 0
    assert json.loads(out)["recommendations"][0]["objective"] == "memory"
    assert "the search was by throughput" in err


def test_tune_can_leave_profiles_alone(feedrate, storage, tmp_path):
    profile = tmp_path / "p.json"
    code, out, err = feedrate("tune", storage, *TUNE, "--no-profile")
    assert code == 0
    assert "frame: use" in out
    assert "profile:" not in err
    assert "no profile" in feedrate("profile", "list")[2]
    code, _, err = feedrate("tune", storage, *TUNE, "--no-profile", "--profile", profile)
    assert code == 2
    assert "contradict" in one_sentence(err)


def test_a_sweep_measures_no_peak_memory_and_says_so(feedrate, storage, tmp_path):
    results = tmp_path / "s.jsonl"
    feedrate("sweep", storage, *QUICK, "--results", results)
    code, _, err = feedrate("recommend", results, "--max-memory", "2GiB")
    assert code == 2
    assert "feedrate tune" in one_sentence(err)


def test_several_results_go_into_one_report(feedrate, tuned, tmp_path):
    results, *_ = tuned
    csv, other = tmp_path / "all.csv", tmp_path / "other.jsonl"
    other.write_bytes(results.read_bytes())
    assert feedrate("report", results, other, results, "--csv", csv)[0] == 0
    assert set(pd.read_csv(csv)["results"]) == {str(results), str(other)}
    assert str(results) in feedrate("report", results, other)[1]


def test_a_report_on_several_machines_ends_with_the_choice_for_each(feedrate, tuned, tmp_path):
    results, *_ = tuned
    other = tmp_path / "other.jsonl"
    header, *samples = results.read_text().splitlines()
    changed = json.loads(header)
    changed["environment"]["effective_cpus"] = 64
    other.write_text("\n".join([json.dumps(changed), *samples, ""]))
    _, same, _ = feedrate("report", results, results)
    assert "what to use on each machine" not in same
    _, out, _ = feedrate("report", results, other)
    table = out.partition("what to use on each machine")[2]
    assert re.search(r"other +frame +original.*\n +64 CPUs", table), table


def test_a_disk_that_fills_up_while_the_profile_is_written_is_told_once(
    feedrate, tuned, monkeypatch
):
    results, profile, _, _ = tuned
    before = profile.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("feedrate.loaders.choosing.profile.replacing", full)
    code, _, err = feedrate("recommend", results, "--profile", profile)
    assert code == 2
    assert one_sentence(err).count("cannot write profile") == 1
    assert profile.read_bytes() == before


def test_a_folder_in_place_of_a_cached_file_is_named_with_the_remedy(feedrate, storage):
    paths = ParquetStorage(storage).files("logs")
    FrameReader(ThreadScheduler(0), cache=DiskCache()).load(paths)
    (data,) = DiskCache().folder.glob("*.arrow")
    data.unlink()
    data.mkdir()
    code, _, err = feedrate("cache", "clear")
    assert code == 2
    assert f"remove it with: rm -r {data}" in one_sentence(err)


@pytest.mark.parametrize("verb", ["info", "clear", "verify"])
def test_a_file_in_place_of_the_cache_is_an_error_with_the_remedy(feedrate, verb):
    folder = DiskCache().folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.touch()
    code, _, err = feedrate("cache", verb)
    assert code == 2
    assert f"the cache {folder} is a file where a folder is needed" in one_sentence(err)
    assert "move it away" in err


def test_the_cache_is_shown_verified_and_cleared(feedrate, storage):
    paths = ParquetStorage(storage).files("logs")
    FrameReader(ThreadScheduler(0), cache=DiskCache()).load(paths)
    code, out, _ = feedrate("cache", "info", "--json")
    about = json.loads(out)
    assert (code, about["files"], about["segments"]) == (0, len(paths), 1)
    assert feedrate("cache", "info")[1].rstrip().endswith("KiB of at most 20.0 GiB")
    assert feedrate("cache", "verify")[:2] == (
        0,
        f"{about['folder']}: 1 segment, as it was written\n",
    )
    (data,) = Path(about["folder"]).glob("*.arrow")
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    code, out, _ = feedrate("cache", "verify")
    assert code == 1
    assert out.startswith(f"{data.stem}: dropped, its checksum does not match")
    FrameReader(ThreadScheduler(0), cache=DiskCache()).load(paths)
    assert json.loads(feedrate("cache", "info", "--json")[1])["files"] == len(paths)
    assert feedrate("cache", "clear")[0] == 0
    assert json.loads(feedrate("cache", "info", "--json")[1])["files"] == 0


def test_a_cache_folder_that_is_missing_is_one_clear_sentence(feedrate, tmp_path):
    code, _, err = feedrate("cache", "info", "--folder", tmp_path / "none")
    assert code == 2
    assert "there is no cache folder" in one_sentence(err)


def test_a_profile_is_checked_field_by_field_and_can_be_removed(feedrate, tuned, storage):
    _, profile, _, _ = tuned
    code, out, _ = feedrate("profile", "check", storage, "--profile", profile)
    assert code == 0
    assert "the memory limit" in out
    assert "holds here" in " ".join(out.split())
    text = profile.read_text()
    profile.write_text(re.sub(r'"effective_cpus": \d+', '"effective_cpus": 999', text))
    code, out, _ = feedrate("profile", "check", storage, "--profile", profile)
    assert code == 1
    assert "NO" in out
    assert "Tune again with: feedrate tune" in " ".join(out.split())
    code, out, _ = feedrate("profile", "check", storage, "--profile", profile, "--json")
    assert code == 1
    assert json.loads(out)["holds"] is False
    code, _, err = feedrate("profile", "remove", profile)
    assert code == 0
    assert not profile.exists()
    code, _, err = feedrate("profile", "remove", profile)
    assert code == 2
    assert "there is no profile" in one_sentence(err)


def test_a_profile_without_settings_holds_for_nothing(feedrate, tuned, storage):
    _, profile, _, _ = tuned
    empty = msgspec.structs.replace(Profile.load(profile), entries=[])
    empty.save(profile)
    code, _, err = feedrate("profile", "check", storage, "--profile", profile)
    assert code == 2
    assert "settings for no job" in one_sentence(err)
    assert "the profile sets nothing" in feedrate("profile", "show", profile)[1]


def test_what_is_no_profile_is_not_removed(feedrate, tuned):
    results, _, _, _ = tuned
    code, _, err = feedrate("profile", "remove", results)
    assert code == 2
    assert "no feedrate profile" in one_sentence(err)
    assert "remove" not in one_sentence(err)  # it is a stranger, and perhaps dear to somebody
    assert results.exists()


def test_a_damaged_profile_in_the_store_names_what_to_do_which_works(feedrate):
    store = profile_home()
    store.mkdir(parents=True, exist_ok=True)
    damaged = store / "damaged.json"
    damaged.write_text("{")
    code, out, _ = feedrate("profile", "list")
    assert code == 0
    assert f"remove it with: feedrate profile remove {damaged}" in out
    assert feedrate("profile", "remove", damaged)[0] == 0
    assert not damaged.exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--objective", "luck"], "unknown objective 'luck'"),
        (["--tie", "0.5"], "tie is 0.5; it is a ratio from 1"),
        (["--max-workers", "-1"], "max_workers is -1"),
        (["--workers", "4,8", "--max-workers", "2"], "no count of workers is within it"),
        (["--budget", "0s"], "budget is '0s'"),
        (["--loader", "nowhere:load"], "cannot import 'nowhere'"),
        (["--loader", "plain"], "unknown backend 'plain'"),
    ],
)
def test_choices_that_cannot_be_made_are_told_before_anything_runs(feedrate, storage, flags, told):
    code, _, err = feedrate("tune", storage, *flags)
    assert code == 2
    assert told in one_sentence(err)


def test_a_spec_file_that_is_wrong_names_the_key(feedrate, storage, tmp_path):
    spec = tmp_path / "spec.toml"
    for text, told in (
        ("seed = 1\n\nwrokers = [1]\n", ".toml: unknown key 'wrokers'"),
        (
            'seed = 1\nworkers = "two"\n',
            ".toml: workers is 'two'; it must be a list, such as [0, 2]",
        ),
        ('seed = 1\nfiles = ["all"]\n', ".toml: files holds 'all', and each of its values must"),
        ("tie = [1]\n", ".toml: tie is [1]; it must be a number"),
        ("workers = [0]\n# rest\nrepeats = 0\n", ".toml: repeats is 0"),
        ("workers = [0\n", "is no TOML"),
        (f"workers = {'[' * 5000}{']' * 5000}\n", "is no TOML"),
        (f"seed = {'9' * 5000}\n", "is no TOML"),
    ):
        spec.write_text(text)
        code, _, err = feedrate("tune", storage, "--spec", spec)
        assert code == 2
        assert told in one_sentence(err)


@pytest.mark.parametrize(
    ("text", "key", "told"),
    [
        ('budget = "1s"\ndata_type = "logz"\n', "data-type", "unknown data type 'logz'"),
        ('columns = [\n "pointz"]\n', "columns", "unknown column 'pointz'"),
        ("passes = 1\n\nfiles = [4000]\n", "files", "files is 4000"),
        ('columns = ["minutes"]\ntarget = "pointz"\n', "target", "unknown column 'pointz'"),
        ('columns = ["minutes"]\ntarget = "player"\n', "target", "column 'player' is text"),
        ('columns = ["player"]\ntarget = "points"\n', "columns", "column 'player' is text"),
    ],
)
def test_what_a_spec_asks_for_and_the_data_do_not_have_names_the_file(
    feedrate, storage, tmp_path, text, key, told
):
    spec = tmp_path / "spec.toml"
    spec.write_text(text)
    code, _, err = feedrate("tune", storage, "--spec", spec)
    assert code == 2
    assert f"spec {spec}: {told}" in one_sentence(err)
    value = 999 if key == "files" else "nothing"
    _, _, err = feedrate("tune", storage, "--spec", spec, f"--{key}", value)
    assert "spec.toml" not in one_sentence(err)  # the flag wins, and is to blame


def test_a_file_of_results_is_not_blamed_on_a_spec(feedrate, storage, tmp_path):
    spec, taken = tmp_path / "spec.toml", tmp_path / "jobs.jsonl"
    spec.write_text('jobs = ["frame"]\n')
    taken.write_text("mine")
    _, _, err = feedrate("tune", storage, "--spec", spec, "--results", taken)
    assert "spec.toml" not in one_sentence(err)


def test_a_warning_of_ours_is_a_line_without_code(feedrate, monkeypatch):
    monkeypatch.setattr(cli, "check_outputs", lambda *_: warn("mind the gap"))
    _, _, err = feedrate("report", "absent.jsonl")
    assert err.startswith("warning: mind the gap\n")
    assert "cli.py" not in err


@pytest.mark.parametrize("inside", [False, True])
def test_a_store_that_cannot_be_written_is_a_warning_before_anything_is_measured(
    feedrate, storage, tmp_path, monkeypatch, inside
):
    home = tmp_path / "home"
    if inside:
        home.mkdir()
        (home / "profiles").write_text("in the way")
    else:
        home.write_text("in the way")
    monkeypatch.setenv("FEEDRATE_HOME", str(home))
    code, out, err = feedrate("tune", storage, *TUNE)
    assert code == 0
    assert "frame: use original" in out
    lines = err.splitlines()
    first = next(line for line in lines if line.startswith("warning: "))
    assert str(home / "profiles") in first
    assert "--profile FILE" in first
    assert lines.index(first) < lines.index(next(one for one in lines if "up to" in one))
    assert "the profile was not stored" in err
    _, _, err = feedrate("tune", storage, *TUNE, "--profile", tmp_path / "p.json")
    assert "warning" not in err
    _, _, err = feedrate("tune", storage, *TUNE, "--no-profile")
    assert "warning" not in err


def test_a_store_that_is_no_folder_is_named_by_profile_list(feedrate, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.write_text("in the way")
    monkeypatch.setenv("FEEDRATE_HOME", str(home))
    code, out, err = feedrate("profile", "list")
    assert (code, out) == (2, "")
    assert f"cannot list {home / 'profiles'}: Not a directory" in one_sentence(err)
    assert "FEEDRATE_HOME" in err
    home.unlink()
    assert feedrate("profile", "list")[0] == 0
    (home / "profiles").mkdir(parents=True)
    code, _, err = feedrate("profile", "list")
    assert code == 0
    assert "no profile in" in err


@pytest.mark.parametrize("verb", ["show", "check", "path", "remove"])
def test_a_profile_command_says_the_same_of_a_name_that_is_nothing(
    feedrate, tmp_path, monkeypatch, verb
):
    monkeypatch.chdir(tmp_path)
    code, out, err = feedrate("profile", verb, "nope")
    assert (code, out) == (2, "")
    assert err == (
        "feedrate: there is no profile and no data folder nope; profiles are listed by: feedrate "
        "profile list\n"
    )


@pytest.fixture
def made_by_demo(tuned, storage, tmp_path):
    """A folder as a demo leaves it, and what it holds."""
    results, profile, _, _ = tuned
    out = tmp_path / "made"
    flights = out / "data" / "flights"
    flights.mkdir(parents=True)
    shutil.copy(next(storage.glob("*/*.parquet")), flights / "flights_20130101.parquet")
    for path, name in ((results, "results.jsonl"), (profile, "profile.json")):
        text = re.sub(
            r'"command": ?"feedrate tune[^"]*"', '"command": "feedrate demo"', path.read_text()
        )
        assert "feedrate demo" in text
        (out / name).write_text(text)
    (out / "report.html").touch()
    (out / "report-charts").mkdir()
    return out


OTHERS = {
    "notes.txt": "notes.txt",
    "data/prices/a.parquet": "data/prices",
    "data/flights/mine.parquet": "data/flights/mine.parquet",
    "data": "data",
    "results.jsonl": "results.jsonl",
    "profile.json": "profile.json",
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_demo_refuses_a_folder_with_data_of_one_s_own_and_writes_nothing(
    feedrate, tmp_path, monkeypatch, name
):
    monkeypatch.setattr("feedrate.harness.cli.demo.tune", pytest.fail)
    monkeypatch.setattr("feedrate.harness.cli.demo.write_flights", pytest.fail)
    out = tmp_path / "own"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('{"hello": 1}')
    before = sorted(out.rglob("*"))
    code, _, err = feedrate("demo", "--out", out)
    assert code == 2
    assert f"{out} holds {OTHERS[name]}, which no demo has made" in one_sentence(err)
    assert sorted(out.rglob("*")) == before
    assert (out / name).read_text() == '{"hello": 1}'


def test_a_demo_goes_on_in_a_new_or_an_empty_folder_or_that_of_an_earlier_demo(
    feedrate, made_by_demo, tmp_path, monkeypatch
):
    class StepError(FeedrateError):
        pass

    def begun(*_, **__):
        raise StepError("it has begun")

    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("feedrate.harness.cli.demo.tune", begun)
    monkeypatch.setattr("feedrate.harness.cli.demo.write_flights", begun)
    for out in (tmp_path / "new", tmp_path / "empty", made_by_demo):
        assert "it has begun" in feedrate("demo", "--out", out)[2]


@pytest.mark.parametrize("verb", ["tune", "sweep"])
@pytest.mark.parametrize(
    "wrong", [["--data-type", "nope"], ["--columns", "nope"], ["--files", "9999"], ["--resume"]]
)
def test_results_are_announced_only_where_something_is_kept(
    feedrate, storage, tmp_path, monkeypatch, verb, wrong
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    code, _, err = feedrate(verb, storage, *TUNE[: None if verb == "tune" else -2], *wrong)
    assert code == 2
    assert "results:" not in err
    assert list((tmp_path / "temporary").iterdir()) == []
