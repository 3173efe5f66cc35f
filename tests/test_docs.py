"""The pages of documentation say what the code does, and their links lead somewhere."""

import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from feedrate.loaders.base.errors import InputError
from feedrate.loaders.base.settings import DEFAULT_WORKERS, LoaderSettings, default_workers
from feedrate.loaders.choosing.backend import Backend
from feedrate.loaders.choosing.profile import JOBS
from feedrate.loaders.choosing.registry import backend_names, find_backend

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted(DOCS.glob("*.md")),
]
FIELDS = {field.name: field for field in msgspec.structs.fields(LoaderSettings)}
COUNTS = [name for name in FIELDS if int in (FIELDS[name].type, *get_args(FIELDS[name].type))]
PACKAGES = ("loaders", "harness", "reports")


def prose(page):
    """A page without its blocks of code, in which a # begins no heading."""
    return re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def section(page, heading):
    """What stands below a heading, up to the next one of any level."""
    (found,) = re.findall(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", prose(page), re.MULTILINE | re.DOTALL
    )
    return found


def table(page, heading):
    """The rows of the one table below a heading, each a dict by the table's header."""
    lines = [line for line in section(page, heading).splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows]


def code(text):
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


def shown_default(name):
    """A field's default as the page has it; that of workers before it is capped."""
    field = FIELDS[name]
    if field.default_factory is default_workers:
        return str(DEFAULT_WORKERS)
    return str(field.default)


@pytest.fixture(scope="module")
def rows():
    """The table of settings, by field."""
    found = table(DOCS / "settings.md", "The fields")
    return {code(row["field"])[0]: row for row in found}


def test_the_settings_page_has_one_row_and_one_heading_for_each_field():
    listed = [code(row["field"]) for row in table(DOCS / "settings.md", "The fields")]
    assert listed == [[name] for name in FIELDS]
    titles = re.findall(r"^### (.*)$", prose(DOCS / "settings.md"), re.MULTILINE)
    told = [name for title in titles for name in title.split(", ")]
    assert sorted(told) == sorted(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_the_settings_page_has_the_default_of(name, rows):
    assert code(rows[name]["default"]) == [shown_default(name)]


@pytest.mark.parametrize("name", FIELDS)
def test_the_settings_page_has_all_allowed_values_of(name, rows):
    kind, allowed = FIELDS[name].type, code(rows[name]["allowed"])
    if name in COUNTS:
        assert allowed[0].isdigit()  # the next test tries the bounds
    elif kind is bool:
        assert allowed == ["True", "False"]
    elif kind is str:
        assert allowed == ["auto"]
    else:
        assert allowed == list(get_args(kind))


@pytest.mark.parametrize("name", COUNTS)
def test_the_settings_page_has_the_bounds_of(name, rows):
    low, *high = map(int, code(rows[name]["allowed"]))
    highest = high[0] if high else 10**9
    for value in (low, highest):
        assert getattr(LoaderSettings(**{name: value}), name) == value
    for value in (low - 1, *(limit + 1 for limit in high)):
        with pytest.raises(InputError, match=name):
            LoaderSettings(**{name: value})


def test_the_settings_page_has_a_column_for_each_built_in_backend(rows):
    columns = list(rows["backend"])
    assert set(columns[4:]) == {"original", "tensorflow", "pytorch"} <= set(backend_names())


@pytest.mark.parametrize("backend", ["original", "tensorflow", "pytorch"])
@pytest.mark.parametrize("name", FIELDS)
def test_the_settings_page_has_the_jobs_in_which_a_backend_uses(name, backend, rows):
    uses = find_backend(backend).uses
    jobs = {job for job in JOBS if name in uses.get(job, ())}
    assert set(re.findall(r"\w+", rows[name][backend])) == jobs


def test_the_settings_page_has_the_presets_as_they_are():
    told = {code(row["preset"])[0]: row for row in table(DOCS / "settings.md", "Presets")}
    assert set(told) == {
        f"LoaderSettings.{name}" for name in ("DEFAULT", "HIGH_PERFORMANCE", "LOW_MEMORY")
    }
    for preset, row in told.items():
        settings = getattr(LoaderSettings, preset.partition(".")[2])
        named = [name for name in row if name != "preset"]
        for name in named:
            uncapped = preset.endswith("DEFAULT") and name == "num_workers"
            value = DEFAULT_WORKERS if uncapped else getattr(settings, name)
            assert code(row[name]) == [str(value)], (preset, name)
        changes = {name: getattr(settings, name) for name in named}
        assert msgspec.structs.replace(LoaderSettings(), **changes) == settings


def sources():
    """The text of every installed module of ours."""
    for package in PACKAGES:
        (folder,) = importlib.util.find_spec(f"feedrate.{package}").submodule_search_locations
        for path in sorted(Path(folder).rglob("*.py")):
            yield path.read_text(encoding="utf-8")


def test_the_settings_page_has_every_environment_variable_of_ours_and_no_other():
    named = {name for text in sources() for name in re.findall(r"\bFEEDRATE_[A-Z_]+\b", text)}
    assert named
    listed = [
        name
        for row in table(DOCS / "settings.md", "Environment variables")
        for name in code(row["variable"])
    ]
    assert {name for name in listed if name.startswith("FEEDRATE_")} == named
    assert len(listed) == len(set(listed))


def test_the_settings_page_has_every_variable_that_bounds_a_pool():
    from feedrate.harness.system.threads import POOL_VARIABLES

    told = code(section(DOCS / "settings.md", "Environment variables"))
    assert set(POOL_VARIABLES) <= set(told)


def test_the_measuring_page_has_every_metric_in_one_group_and_no_other():
    from feedrate.harness.record.metrics import METRICS

    groups = table(DOCS / "measuring.md", "The groups of metrics")
    listed = [name for row in groups for name in code(row["metrics"])]
    assert sorted(listed) == sorted(METRICS)
    named = {name for name in code(prose(DOCS / "measuring.md")) if is_like_a_metric(name)}
    assert named - METRICS.keys() <= {"run_s"}  # a sample's own field


def is_like_a_metric(name):
    """Whether a name is written as those of metrics are: with a unit at its end."""
    return bool(re.fullmatch(r"[a-z0-9_]+_(s|pct|bytes)", name))


def test_the_concepts_page_has_every_verdict_and_which_of_them_may_be_recommended():
    from feedrate.harness.gate.rule import GateVerdict
    from feedrate.harness.record.results import Verdict
    from feedrate.harness.record.summary import RANKABLE_VERDICTS

    told = {
        code(row["verdict"])[0]: row["may be recommended"]
        for row in table(DOCS / "concepts.md", "Verdicts")
    }
    assert set(told) == set(get_args(Verdict))
    assert {verdict for verdict, allowed in told.items() if allowed == "yes"} == set(
        RANKABLE_VERDICTS
    )
    words = code(section(DOCS / "concepts.md", "Terms"))
    assert set(get_args(GateVerdict)) <= set(words)


def test_the_backends_page_has_every_field_of_a_backend():
    told = code(section(DOCS / "backends.md", "A built-in backend"))
    assert {field.name for field in dataclasses.fields(Backend)} <= set(told)


def test_the_measuring_page_has_every_state_of_the_page_cache():
    from feedrate.harness.system.pagecache import PAGE_CACHES

    listed = [
        code(row["`page_cache`"])[0] for row in table(DOCS / "measuring.md", "The page cache")
    ]
    assert listed == list(PAGE_CACHES)


def test_files_that_the_pages_name_exist():
    for page in DOCS.glob("*.md"):
        named = {
            name
            for name in code(prose(page))
            if re.fullmatch(r"(loaders|harness|reports|tests|benchmarks)/[\w/]+\.(py|md)", name)
        }
        missing = sorted(name for name in named if not (ROOT / name).is_file())
        assert not missing, page


def anchors(page):
    """What a heading can be linked by, as GitHub makes it."""
    found = {}
    for title in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        if found[slug]:
            found[f"{slug}-{found[slug]}"] = 0
    return set(found)


def links(page):
    """The relative links of a page: a path, which may be empty, and an anchor, which may be too."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_to_a_file_and_a_heading_that_exist(page):
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{path}: there is no {target}"
        if anchor:
            assert anchor in anchors(target), f"{path}#{anchor}: there is no such heading"


def test_links_are_found():
    assert ("docs/gate.md", "") in set(links(ROOT / "README.md"))
    assert ("docs/backends.md", "") in set(links(ROOT / "CONTRIBUTING.md"))
    assert ("concepts.md", "equal-to-the-original") in set(links(DOCS / "tuning.md"))
