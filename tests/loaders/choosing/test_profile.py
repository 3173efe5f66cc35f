"""Profiles are read whole or not at all, found in order, and used where they hold."""

import dataclasses
import json
import warnings

import msgspec
import pandas as pd
import pytest
from feedrate.loaders.base import machine, settings
from feedrate.loaders.base.errors import (
    DocumentError,
    FeedrateWarning,
    InputError,
    MissingBackendError,
    StorageError,
)
from feedrate.loaders.base.machine import fingerprint
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.choosing import backend as backend_module
from feedrate.loaders.choosing.profile import Entry, Evidence, Profile, store_path
from feedrate.loaders.choosing.registry import find_backend, get_backend, register
from feedrate.loaders.frames.original_frames import OriginalReader
from feedrate.loaders.optimized_historical_loader import OptimizedHistoricalDataLoader
from feedrate.loaders.parquet.dataset import describe

from ...backends import unregister

EVIDENCE = Evidence(
    strength="strong",
    why="ten interleaved pairs",
    launches=10,
    passes=1,
    total_s=0.5,
    first_pass_s=0.5,
    rows=12_345,
    rows_per_s=24_690.0,
    speedup=6.5,
    speedup_low=6.0,
    speedup_high=7.0,
    confidence=0.95,
    peak_pss_bytes=None,
)
MEASURED = LoaderSettings(backend="pytorch", num_workers=3, prefetch=1, cache="disk")


@pytest.fixture(autouse=True)
def _every_backend_installed(monkeypatch):
    """What is installed here decides nothing; no frame is loaded with what is not."""
    pretend(monkeypatch, "tensorflow", "torch")


def pretend(monkeypatch, *installed):
    monkeypatch.setattr(backend_module, "is_installed", lambda module: module in installed)


def entry(job="frame", data_type="box_scores", files=3, max_files=None, using=MEASURED):
    return Entry(
        job=job,
        data_type=data_type,
        files=files,
        max_files=max_files,
        settings=using,
        evidence=EVIDENCE,
    )


def profile_of(storage, *entries, **changes):
    """A profile that holds for a storage on this machine."""
    fields = {
        "created": "2025-01-01T00:00:00Z",
        "command": "feedrate tune data",
        "machine": fingerprint(),
        "datasets": [
            describe(storage.files(name), name) for name in ("box_scores", "dfs_salaries")
        ],
        "entries": list(entries) or [entry()],
    }
    return Profile(**fields | changes)


def using(num_workers):
    return LoaderSettings(backend="pytorch", num_workers=num_workers)


def test_a_profile_is_read_as_it_was_saved(storage, tmp_path):
    profile = profile_of(storage, entry(), entry("stream", None, 300, 500, using(7)))
    path = profile.save(tmp_path / "new" / "folder" / "p.json")
    assert Profile.load(path) == profile
    document = json.loads(path.read_text())
    assert document["format"] == "feedrate-profile"
    assert document["version"] == 4
    assert [file.name for file in path.parent.iterdir()] == ["p.json"]


def test_saving_replaces_an_older_profile(storage, tmp_path):
    profile_of(storage).save(tmp_path / "p.json")
    newer = profile_of(storage, command="another")
    newer.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json") == newer


def test_a_profile_that_cannot_be_written_is_an_error_that_names_the_file(storage, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write profile .*p\.json: .*name another file"):
        profile_of(storage).save(tmp_path / "file" / "p.json")


def changed(**changes):
    return lambda document: json.dumps({**json.loads(document), **changes}).encode()


def with_entry(**changes):
    def change(document):
        whole = json.loads(document)
        whole["entries"][0].update(changes)
        return json.dumps(whole).encode()

    return change


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
        Profile.load(path)
    except DocumentError as error:
        return [str(error)]
    return []


def test_a_huge_number_anywhere_is_not_printed_whole(storage, tmp_path):
    path = tmp_path / "p.json"
    profile_of(storage).save(path)
    text = path.read_text()
    told = []
    for way in places(json.loads(text)):
        path.write_text(json.dumps(with_value(json.loads(text), way, 10**400)))
        told += said_of(path)
    assert len(told) > 5
    assert not [text for text in told if "0" * 50 in text]


DAMAGES = {
    "cut": (lambda document: document[: len(document) // 2], "is no feedrate profile"),
    "empty": (lambda _: b"", "is no feedrate profile"),
    "not JSON": (lambda _: b"\xff\xfe PAR1", "is no feedrate profile"),
    "someone else's": (lambda _: b'{"name": "package", "version": "1.0.0"}', "is no feedrate pro"),
    "without a format": (lambda _: b'{"entries": []}', "its format is 'not given'"),
    "of another format": (changed(format="feedrate-results"), "its format is 'feedrate-results'"),
    "with a byte that is no text": (
        lambda text: text.replace(b"feedrate-pro", b"feedrate-\xe6ro"),
        "is no feedrate profile",
    ),
    "nested thousands deep": (
        lambda text: b'{"more": ' + b"[" * 5000 + b"]" * 5000 + b"," + text[1:],
        "is no feedrate profile",
    ),
    "with an endless number": (
        lambda text: text.replace(b'"version": 4', b'"version": ' + b"9" * 400),
        "is no feedrate profile",
    ),
    "a list": (lambda _: b"[1, 2]", "is no feedrate profile"),
    "newer": (changed(version=99), "of version 99, and this feedrate reads up to 4; upgrade"),
    "of a wrong type": (changed(entries="none"), r"is a damaged .*Expected `array`.*\$\.entries"),
    "of a wrong job": (with_entry(job="dance"), r"is a damaged .*'dance'"),
    "without a field": (with_entry(settings=None), r"is a damaged .*settings"),
    "of impossible settings": (
        with_entry(settings={"num_workers": -3}),
        "is a damaged .*num_workers is -3",
    ),
    "of unknown settings": (with_entry(settings={"wrokers": 3}), "is a damaged .*wrokers"),
    "of settings with a wrong type": (
        with_entry(settings={"num_workers": "four"}),
        "is a damaged .*Expected `int`, got `str`",
    ),
    "of a later feedrate that it could read": (changed(version=4, more=[1]), None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_profile_is_one_sentence_that_names_the_file(storage, tmp_path, damage):
    path = profile_of(storage).save(tmp_path / "p.json")
    spoil, message = DAMAGES[damage]
    path.write_bytes(spoil(path.read_bytes()))
    if message is None:
        assert Profile.load(path) == profile_of(storage)
        return
    with pytest.raises(DocumentError, match=message) as caught:
        Profile.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_profile_that_is_missing_says_how_to_make_one(storage, tmp_path):
    with pytest.raises(
        DocumentError, match=r"cannot read profile .*none\.json: No such file.*tune"
    ):
        Profile.load(tmp_path / "none.json")
    with pytest.raises(DocumentError, match="cannot read profile"):
        OptimizedHistoricalDataLoader(storage, profile=tmp_path / "none.json")
    with pytest.raises(DocumentError, match="cannot read profile"):
        Profile.load(tmp_path)


def test_entries_are_chosen_by_job_data_type_and_number_of_files(storage):
    profile = profile_of(
        storage,
        entry("frame", "box_scores", 300, None, using(9)),
        entry("frame", "box_scores", 10, 60, using(1)),
        entry("frame", "box_scores", 100, 200, using(5)),
        entry("frame", "dfs_salaries", 3, None, using(2)),
        entry("batches", "dfs_salaries", 3, None, using(4)),
    )

    def workers(*load):
        return profile.settings_for(*load).num_workers

    for files, expected in ((1, 1), (60, 1), (61, 5), (200, 5), (201, 9), (None, 9)):
        assert workers("frame", "box_scores", files) == expected
    assert workers("frame", "dfs_salaries", 500) == 2
    assert workers("batches", "box_scores") == 4  # tuned for another type only
    assert workers("frame", "injuries", 5) == 1  # as for the type with the most bytes
    assert workers("frame") == 9
    assert profile.entry_for("stream") is None
    assert profile.settings_for("stream") == LoaderSettings()
    with pytest.raises(InputError, match=r"unknown job 'frames'.*did you mean 'frame'"):
        profile.settings_for("frames")


def test_a_newer_profile_replaces_the_jobs_and_types_that_it_has(storage):
    older = profile_of(
        storage, entry(), entry("stream"), entry("frame", "dfs_salaries", using=using(1))
    )
    newer = profile_of(
        storage,
        entry(using=using(8)),
        created="2026-01-01T00:00:00Z",
        datasets=[describe(storage.files("box_scores")[:1], "box_scores")],
    )
    merged = older.merged(newer)
    assert merged.created == newer.created
    assert [(e.job, e.data_type, e.settings.num_workers) for e in merged.entries] == [
        ("stream", "box_scores", 3),
        ("frame", "dfs_salaries", 1),
        ("frame", "box_scores", 8),
    ]
    assert [(d.data_type, d.files) for d in merged.datasets] == [
        ("dfs_salaries", 3),
        ("box_scores", 1),
    ]


def test_a_profile_is_looked_for_in_order(storage, tmp_path, monkeypatch):
    def workers(**options):
        return OptimizedHistoricalDataLoader(storage, **options).settings.num_workers

    assert workers() == settings.default_workers()
    profile_of(storage, entry(using=using(11))).save(store_path(storage.base_dir, fingerprint()))
    assert workers() == 11
    profile_of(storage, entry(using=using(12))).save(storage.base_dir / "feedrate.profile.json")
    assert workers() == 12
    named = profile_of(storage, entry(using=using(13))).save(tmp_path / "named.json")
    monkeypatch.setenv("FEEDRATE_PROFILE", str(named))
    assert workers() == 13
    given = profile_of(storage, entry(using=using(14)))
    path = given.save(tmp_path / "given.json")
    assert workers(profile=given) == 14
    assert workers(profile=path) == 14
    assert workers(profile=str(path)) == 14
    for nothing in (None, "none"):
        assert workers(profile=nothing) == settings.default_workers()
    assert "profile=None" in OptimizedHistoricalDataLoader(storage, profile=None).explain()


def test_the_store_keeps_one_profile_for_each_machine_and_folder(tmp_path):
    here = fingerprint()
    other = msgspec.structs.replace(here, effective_cpus=here.effective_cpus + 1)
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    paths = {store_path(tmp_path / "a", here), store_path(tmp_path / "b", here),
             store_path(tmp_path / "a", other), store_path(tmp_path / "link", here)}  # fmt: skip
    assert len(paths) == 3
    assert all(path.parent.name == "profiles" for path in paths)


def test_a_profile_that_the_environment_names_must_be_usable(storage, tmp_path, monkeypatch):
    monkeypatch.setenv("FEEDRATE_PROFILE", str(tmp_path / "none.json"))
    with pytest.raises(DocumentError, match="cannot read profile"):
        OptimizedHistoricalDataLoader(storage)
    assert OptimizedHistoricalDataLoader(storage, profile=None)


def test_a_damaged_profile_that_was_merely_found_costs_a_warning(storage):
    (storage.base_dir / "feedrate.profile.json").write_text("{")
    with pytest.warns(FeedrateWarning, match=r"is no feedrate profile.*; safe defaults are used"):
        loader = OptimizedHistoricalDataLoader(storage)
    assert loader.settings == get_backend("auto").normalized_for("frame", LoaderSettings())
    assert "Profile not used" in loader.explain()


def changed_machine(**changes):
    return lambda storage: profile_of(
        storage, machine=msgspec.structs.replace(fingerprint(), **changes)
    )


def other_version(name, version):
    versions = {**fingerprint().versions, name: version}
    return changed_machine(versions=versions)


def other_schema(storage):
    storage.save(pd.DataFrame({"other": [1]}), "box_scores", "20241231")
    profile = profile_of(storage)
    (storage.base_dir / "box_scores" / "box_scores_20241231.parquet").unlink()
    return profile


UNTRUSTED = {
    "another CPU": (changed_machine(cpu_model="Z80"), "the CPU was Z80, is "),
    "another number of CPUs": (
        changed_machine(effective_cpus=999),
        "the number of usable CPUs was 999, is ",
    ),
    "another major version": (other_version("pandas", "1.5.3"), "pandas was 1.5.3, is "),
    "a package that is missing": (other_version("polka", "1.0"), "polka was 1.0, is missing"),
    "other columns": (other_schema, "the schema of box_scores was 8 columns ("),
    "other data": (
        lambda storage: profile_of(storage, datasets=[describe([], "weather")]),
        "the data type was weather, is box_scores, dfs_salaries, schedule",
    ),
}


@pytest.mark.parametrize("what", UNTRUSTED)
def test_a_profile_that_does_not_hold_here_is_warned_about_once_and_not_obeyed(storage, what):
    make, why = UNTRUSTED[what]
    profile = make(storage)
    with pytest.warns(FeedrateWarning) as told:
        loader = OptimizedHistoricalDataLoader(storage, "original", profile=profile)
    (warning,) = told
    loader.load_files(storage.files("box_scores"))
    assert why in str(warning.message)
    assert f"Tune again with: feedrate tune {storage.base_dir}" in str(warning.message)
    assert loader.settings_for("batches") == find_backend("original").normalized_for(
        "batches", LoaderSettings()
    )
    assert f"Profile not used: profile given does not hold here: {why}" in loader.explain()


@pytest.mark.parametrize(
    "make",
    [
        other_version("pandas", f"{pd.__version__.split('.')[0]}.99.0"),
        changed_machine(memory_bytes=1, gpu="another", python="3.99.0"),
    ],
    ids=["another minor version", "more memory and, for frames, another GPU"],
)
def test_what_changes_little_leaves_a_profile_trusted(storage, make):
    loader = OptimizedHistoricalDataLoader(storage, profile=make(storage))
    assert loader.settings.num_workers == 3


def test_more_files_of_the_same_columns_leave_a_profile_trusted(storage):
    profile = profile_of(storage)
    frame = pd.read_parquet(storage.files("box_scores")[0])
    for day in range(20250104, 20250110):
        storage.save(frame, "box_scores", str(day))
    storage.save(pd.DataFrame({"new": [1]}), "injuries", "20250101")
    assert OptimizedHistoricalDataLoader(storage, profile=profile).settings.num_workers == 3


def test_a_profile_is_trusted_where_there_are_no_data_yet(storage, tmp_path):
    profile = profile_of(storage)
    empty = type(storage)(tmp_path / "nowhere")
    assert OptimizedHistoricalDataLoader(empty, profile=profile).settings.num_workers == 3


def test_a_keyword_wins_over_settings_over_profile_over_default(storage):
    def loader(**options):
        return OptimizedHistoricalDataLoader(storage, **options).settings

    profile = profile_of(storage)
    assert loader(profile=None) == get_backend("auto").normalized_for("frame", LoaderSettings())
    assert loader(profile=profile) == get_backend("pytorch").normalized_for("frame", MEASURED)
    given = LoaderSettings(backend="tensorflow", num_workers=6, prefetch=5, cache="none")
    assert loader(profile=profile, settings=given) == get_backend("tensorflow").normalized_for(
        "frame", given
    )
    for options in ({"profile": profile}, {"profile": None}, {"settings": given}):
        got = loader(
            **options,
            loader_type="pytorch",
            num_workers=9,
            enable_prefetch=True,
            enable_cache=True,
        )
        assert (got.backend, got.num_workers, got.prefetch, got.cache) == (
            "pytorch",
            9,
            2,
            "memory",
        )
    kept = loader(profile=profile, num_workers=9)
    assert (kept.num_workers, kept.prefetch, kept.cache) == (9, 1, "disk")


@pytest.mark.parametrize(
    ("keywords", "prefetch", "cache"),
    [
        ({"enable_prefetch": True, "enable_cache": True}, 2, "memory"),
        ({"enable_prefetch": False, "enable_cache": False}, 0, "none"),
        ({"enable_prefetch": 7, "enable_cache": "disk"}, 7, "disk"),
        ({"enable_prefetch": None, "enable_cache": None}, 1, "disk"),
    ],
)
def test_enabling_means_two_ahead_and_the_memory_cache(storage, keywords, prefetch, cache):
    loader = OptimizedHistoricalDataLoader(storage, profile=profile_of(storage), **keywords)
    assert (loader.settings.prefetch, loader.settings.cache) == (prefetch, cache)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"loader_type": "pytroch"}, r"unknown backend 'pytroch'.*did you mean 'pytorch'"),
        ({"num_workers": -1}, "num_workers is -1; it must be an integer of at least 0"),
        ({"num_workers": "4"}, "num_workers is '4'; it must be an integer"),
        ({"enable_prefetch": -1}, "prefetch is -1; it must be an integer of at least 0"),
        ({"enable_prefetch": "yes"}, "enable_prefetch is 'yes'; give True, False or a number"),
        ({"enable_cache": "ram"}, "unknown cache 'ram'; the choices are: disk, memory, none"),
        ({"on_error": "ignore"}, "unknown on_error 'ignore'; the choices are: raise, skip"),
        ({"schema": "loose"}, "unknown schema rule 'loose'; the choices are: concat, strict"),
    ],
)
def test_bad_keywords_are_told_when_the_loader_is_made(storage, keywords, message):
    with pytest.raises(InputError, match=message):
        OptimizedHistoricalDataLoader(storage, profile=None, **keywords)


def test_each_job_and_type_has_its_own_settings(storage):
    loader = OptimizedHistoricalDataLoader(
        storage,
        profile=profile_of(
            storage,
            entry(using=using(5)),
            entry("frame", "dfs_salaries", using=using(2)),
            entry("stream", using=using(7)),
        ),
    )
    assert loader.settings_for("frame", "box_scores").num_workers == 5
    assert loader.settings_for("frame", "dfs_salaries").num_workers == 2
    assert loader.settings_for("stream").num_workers == 7
    assert loader.settings_for("batches").num_workers == settings.default_workers()
    assert loader.settings == loader.settings_for("frame")
    assert loader.settings.num_workers == 5  # box scores have the most bytes
    with pytest.raises(InputError, match="unknown job 'frames'"):
        loader.settings_for("frames")


def test_loads_use_the_entry_of_their_type_and_number_of_files(storage):
    made = []

    def frame(settings, cache, schema, on_error):
        made.append((settings.num_workers, type(cache).__name__))
        return OriginalReader(schema=schema, on_error=on_error)

    uses = {"frame": frozenset({"num_workers", "cache"})}
    register(dataclasses.replace(find_backend("original"), name="ours", frame=frame, uses=uses))
    try:
        ours = LoaderSettings(backend="ours", num_workers=0, cache="none")
        many = msgspec.structs.replace(ours, num_workers=9, cache="disk")
        profile = profile_of(
            storage,
            entry("frame", "box_scores", 1, 2, ours),
            entry("frame", "box_scores", 300, None, many),
            entry("frame", "dfs_salaries", 3, None, msgspec.structs.replace(ours, num_workers=4)),
        )
        loader = OptimizedHistoricalDataLoader(storage, profile=profile)
        assert loader.active_backend == "ours"
        loader.load_files(storage.files("box_scores"))
        loader.load_files(storage.files("box_scores")[:2])
        loader.load_files(storage.files("dfs_salaries"))
        loader.load_files(storage.files("box_scores"))
        assert made == [(9, "DiskCache"), (0, "NoneType"), (4, "NoneType")]
    finally:
        unregister("ours")


@pytest.mark.parametrize(
    ("installed", "picked"),
    [
        (("tensorflow", "torch"), "tensorflow"),
        (("tensorflow",), "tensorflow"),
        (("torch",), "pytorch"),
        ((), "original"),
    ],
)
def test_auto_takes_the_first_that_is_installed(storage, monkeypatch, installed, picked):
    pretend(monkeypatch, *installed)
    loader = OptimizedHistoricalDataLoader(storage, profile=None)
    assert loader.active_backend == loader.settings.backend == picked
    assert f"Backend {picked}: the first installed of tensorflow, pytorch, original." in (
        loader.explain()
    )


@pytest.mark.parametrize(
    ("backend", "module"), [("tensorflow", "tensorflow"), ("pytorch", "torch")]
)
def test_a_backend_asked_for_by_name_that_is_missing_names_the_extra(
    storage, monkeypatch, backend, module
):
    pretend(monkeypatch)
    message = (
        rf"the {backend} backend needs {module}, which is not installed; install it with: "
        rf'pip install "feedrate\[{"torch" if backend == "pytorch" else "tensorflow"}\]"'
    )
    for options in (
        {"loader_type": backend},
        {"settings": LoaderSettings(backend=backend)},
        {"profile": profile_of(storage, entry(using=LoaderSettings(backend=backend)))},
    ):
        with pytest.raises(MissingBackendError, match=message) as caught:
            OptimizedHistoricalDataLoader(storage, **{"profile": None, **options})
        assert isinstance(caught.value, ImportError)


def test_a_fallback_drops_what_it_cannot_use_and_says_so(storage, monkeypatch):
    pretend(monkeypatch)
    given = LoaderSettings(num_workers=8, prefetch=3, cache="disk")
    loader = OptimizedHistoricalDataLoader(storage, settings=given, profile=None)
    assert loader.active_backend == "original"
    got = loader.settings
    assert (got.num_workers, got.prefetch, got.cache) == (0, 0, "none")
    assert "Not used by original in this job: num_workers, prefetch, cache." in loader.explain()
    assert len(loader.load_files(storage.files("box_scores"))) == 12


def test_the_explanation_says_what_is_used_and_where_it_comes_from(storage):
    told = OptimizedHistoricalDataLoader(storage, profile=profile_of(storage)).explain()
    assert "Profile: given, of 2025-01-01T00:00:00Z." in told
    measured = "Measured on 3 files of box_scores: 24,690 rows/s over all passes."
    assert f"{measured} Evidence: strong; ten interleaved pairs." in told
    assert (
        "Frame job: backend=pytorch, num_workers=3, prefetch=1, cache=disk, dtype_backend=numpy, "
        "decoder=auto, from the profile." in told
    )
    told = OptimizedHistoricalDataLoader(
        storage, "tensorflow", num_workers=1, profile=profile_of(storage)
    ).explain()
    assert "Backend tensorflow was requested; the profile named pytorch" in told
    assert "from the profile, with num_workers, loader_type as given." in told
    told = OptimizedHistoricalDataLoader(storage, settings=MEASURED, profile=None).explain()
    assert "from the settings given." in told
    told = OptimizedHistoricalDataLoader(storage).explain()
    assert f"No profile was found; make one with: feedrate tune {storage.base_dir}" in told
    assert "from the defaults." in told
    told = OptimizedHistoricalDataLoader(
        storage, profile=profile_of(storage, entry("stream"))
    ).explain()
    assert "The profile has nothing on the frame job; defaults are used. To tune it:" in told


def test_a_profile_of_frames_alone_says_that_batches_use_defaults_and_how_to_tune_them(storage):
    frames = OptimizedHistoricalDataLoader(storage, profile=profile_of(storage, entry("frame")))
    told = (
        "The profile has nothing on the batches job; defaults are used. To tune it: feedrate tune "
        f"{storage.base_dir} --job batches --target COLUMN"
    )
    assert told in frames.explain()
    assert frames.explain("batches").count(told) == 1
    both = profile_of(storage, entry("frame"), entry("batches"))
    assert "nothing on the" not in OptimizedHistoricalDataLoader(storage, profile=both).explain()
    given = OptimizedHistoricalDataLoader(
        storage, settings=MEASURED, profile=profile_of(storage, entry("frame"))
    )
    assert "nothing on the" not in given.explain()


def test_without_workers_nothing_is_prefetched_and_the_explanation_says_so(storage):
    loader = OptimizedHistoricalDataLoader(storage, "pytorch", 0, True, profile=None)
    assert loader.settings.prefetch == 0
    assert "Not used by pytorch in this job: prefetch." in loader.explain()
    assert OptimizedHistoricalDataLoader(storage, "tensorflow", 0, True).settings.prefetch == 2


def test_the_presets_are_what_the_documents_say(monkeypatch):
    monkeypatch.setattr(settings, "effective_cpus", lambda: 64)
    default, high, low = (
        (preset.backend, preset.num_workers, preset.prefetch, preset.cache)
        for preset in (
            LoaderSettings.DEFAULT,
            LoaderSettings.HIGH_PERFORMANCE,
            LoaderSettings.LOW_MEMORY,
        )
    )
    assert default == ("auto", 4, 2, "memory")
    assert high == ("tensorflow", 16, 2, "memory")
    assert low == ("pytorch", 2, 0, "none")
    assert LoaderSettings() == LoaderSettings.DEFAULT


def test_only_default_numbers_of_workers_are_capped(storage, monkeypatch):
    monkeypatch.setattr(settings, "effective_cpus", lambda: 1)
    assert LoaderSettings().num_workers == 1
    assert LoaderSettings.DEFAULT.num_workers == 1
    assert LoaderSettings.HIGH_PERFORMANCE.num_workers == 16
    assert LoaderSettings(num_workers=64).num_workers == 64
    loader = OptimizedHistoricalDataLoader(storage, "pytorch", 64, profile=None)
    assert loader.settings.num_workers == 64


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_workers": True}, "num_workers is True; it must be an integer of at least 0"),
        ({"batch_size": 0}, "batch_size is 0; it must be an integer of at least 1"),
        ({"shuffle_window": 0}, "shuffle_window is 0"),
        ({"worker_kind": "fiber"}, "unknown worker_kind 'fiber'; the choices are: process, thread"),
        ({"dtype_backend": "arrow"}, "unknown dtype_backend 'arrow'.*did you mean 'pyarrow'"),
        ({"backend": ""}, "backend is ''; give the name of a backend, or 'auto'"),
    ],
)
def test_settings_that_are_not_allowed_name_the_field_and_what_is(fields, message):
    with pytest.raises(InputError, match=message):
        LoaderSettings(**fields)


def test_a_name_that_is_taken_cannot_be_registered():
    for name in ("pytorch", "auto"):
        with pytest.raises(InputError, match=f"there is a backend '{name}' already"):
            register(dataclasses.replace(find_backend("original"), name=name))


def test_a_loader_says_nothing_where_there_is_nothing_to_say(storage):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OptimizedHistoricalDataLoader(storage)
        OptimizedHistoricalDataLoader(storage, profile=profile_of(storage))


def test_a_fingerprint_imports_nothing_and_reads_versions_from_metadata(monkeypatch):
    monkeypatch.setattr(machine, "version", lambda name: {"torch": "9.9"}.get(name, "1.0"))
    assert fingerprint().versions["torch"] == "9.9"
