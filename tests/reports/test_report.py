"""The report: one story, as a page, as Markdown and as charts, whatever was measured."""

import ast
import html as entities
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from feedrate.harness.cli import app as cli
from feedrate.harness.cli.report_commands import distinct_names
from feedrate.harness.record.journal import encode_line
from feedrate.harness.record.results import Planned
from feedrate.harness.show.markdown import escape
from feedrate.reports.content import Grid, Words
from feedrate.reports.encodings import COLOURS
from feedrate.reports.html import html_report
from feedrate.reports.images import as_png, as_svg
from feedrate.reports.markdown import markdown_report
from feedrate.reports.story import MOST_TRIALS, report
from markdown_it import MarkdownIt
from msgspec import structs

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>|`*_[x](javascript:a)\n# h"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
KINDS = ("whole", "one sample", "only failed", "empty", "hostile", "two machines", "many", "a GPU")


@pytest.fixture
def told(make_results, make_sample, measured, swept):
    """A report by the kind of its results."""

    def make(kind):
        failed = {"rows": None, "verdict": "crash", "reasons": {"verdict": "it broke"}}
        if kind == "two machines":
            fewer = [one for one in swept if one.settings.num_workers < 4]
            other = make_results(fewer, machine={"cpu_model": "Xeon", "effective_cpus": 64})
            first = measured(make_results(swept), "laptop", 1)
            return report([first, measured(other, "ci", 2)])
        if kind == "many":
            grid = [(w, p, s) for w in range(50) for p in range(8) for s in range(5)]
            many = [
                make_sample("pytorch", 0, 0.1 + w / 1e3, num_workers=w, prefetch=p,
                            batch_size=1 + s, job="batches")
                for w, p, s in grid
            ]  # fmt: skip
            return report([measured(make_results(many))])
        gpu = {f"h2d_{how}_s": 0.01 for how in ("pageable", "pinned", "overlap")}
        copied = {**gpu, "h2d_bytes": 1e8}
        samples = {
            "whole": swept,
            "one sample": [make_sample("pytorch", 0, 0.1, phase="confirming")],
            "only failed": [make_sample("original", 0, None, **failed)],
            "empty": [],
            # The fastest, so that it is recommended, and its name stands everywhere.
            "hostile": [
                *swept,
                *(
                    make_sample(f"{EVIL}:f", turn, 0.001, phase="confirming", pass_=pass_)
                    for turn in range(8)
                    for pass_ in range(2)
                ),
            ],
            "a GPU": [
                make_sample(
                    "pytorch", turn, 0.1, job="batches", phase="confirming", pass_=pass_,
                    metrics=copied,
                )
                for turn in range(3) for pass_ in range(2)
            ],
        }[kind]  # fmt: skip
        evil = {"data_type": EVIL, "folder": f"/{EVIL}", "command": f"feedrate tune '{EVIL}'",
                "machine": {"cpu_model": EVIL}}  # fmt: skip
        return report([measured(make_results(samples, **(evil if kind == "hostile" else {})))])

    return make


def values_of(spec):
    """All rows of data anywhere in a specification."""
    parts = spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ()
    own = spec["values"] if isinstance(spec, dict) and isinstance(spec.get("values"), list) else []
    return [*own, *(row for part in parts for row in values_of(part))]


def words(found):
    return [part.text for one in found.sections for part in one.parts if isinstance(part, Words)]


def grids(found):
    return [part for one in found.sections for part in one.parts if isinstance(part, Grid)]


UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "": 1.0, "k": 1e3, "M": 1e6}


def number(cell):
    """A cell such as `144 ms` or `2.81 M`."""
    value, _, unit = cell.partition(" ")
    return float(value) * UNITS[unit]


def test_the_numbers_of_a_page_agree(told):
    found = told("whole")
    tables = [grid for grid in grids(found) if grid.title.startswith("frame job: ")]
    assert len(tables) == 2
    for grid in tables:
        rows_per_pass, passes = (
            int(re.search(rf"([\d,]+) {what}", grid.title)[1].replace(",", ""))
            for what in ("row", "pass")
        )
        for row in (dict(zip(grid.columns, cells, strict=True)) for cells in grid.rows):
            seconds = number(row["1st pass"]) + (passes - 1) * number(row["Later"])
            assert number(row["Rows/s"]) == pytest.approx(
                rows_per_pass * passes / seconds, rel=0.02
            )
    (marked,) = tables[0].marked
    chosen = dict(zip(tables[0].columns, tables[0].rows[marked], strict=True))
    answer = " ".join(words(found)[:2])
    first, every = (chosen[name].partition(" ")[0] for name in ("x 1st", "x all"))
    assert f"{first} as fast as the original on the first pass, {every} over 2 passes" in answer
    assert not re.search(r"\[|rows/s|n = ", answer)  # figures and intervals stand in the table
    (stages,) = (grid for grid in grids(found) if grid.title.startswith("Where the time goes"))
    assert stages.title.endswith(f"first pass, {chosen['1st pass']}")
    assert any(f"the median pass of {chosen['n']} launches" in text for text in words(found))
    (every,) = (grid for grid in grids(found) if grid.columns[0] == "Metric")
    shown = {row[0]: row for row in every.rows}
    assert shown["time"][1:3] == (chosen["1st pass"], chosen["Later"])
    assert not shown.keys() & {row[0] for row in stages.rows}  # no stage has two medians


def test_the_answer_comes_first_with_its_speedup_and_spread(told):
    found = told("whole")
    assert found.sections[0].title == "The answer"
    first = found.sections[0].parts[0]
    assert first.strong
    assert re.match(
        r"frame: use pytorch with 2 workers and the memory cache: 1\d\.\d× as fast as the original "  # noqa: RUF001
        r"on the first pass, [\d.]+× over 2 passes\. Evidence: (strong|tie)\.$", first.text,  # noqa: RUF001
    )  # fmt: skip
    assert any("What limits it: decode-bound" in text for text in words(found))
    names = [chart.name for chart in found.charts]
    kinds = ("speedup", "workers", "files", "heatmap", "memory", "samples", "stages")
    assert names == [f"{kind}-frame" for kind in kinds]


def test_what_failed_and_what_is_not_known_is_told_with_the_reason(told, make_results, make_sample,
                                                                   measured):  # fmt: skip
    text = markdown_report(told("only failed"))
    assert "Nothing can be recommended" in text
    assert "crash: frame with original" in text
    assert "it broke" in text
    assert "Nothing was measured yet" in markdown_report(told("empty"))
    unknown = [make_sample("pytorch", 0, 0.1, reasons={"h2d_pinned_s": "no GPU"})]
    assert "- H2D pinned: no GPU" in markdown_report(report([measured(make_results(unknown))]))


def test_without_workers_or_rivals_a_chart_is_left_out_rather_than_empty(told):
    assert [chart.name for chart in told("one sample").charts] == ["samples-frame"]
    assert told("only failed").charts == []


def test_why_a_job_has_no_recommendation_is_told(make_results, swept, measured):
    found = measured(make_results(swept, spec={"max_memory": "1MiB"}))
    problem = "no settings of the frame job keep to max_memory 1.00 MiB"
    text = markdown_report(report([replace(found, problems=[problem])]))
    assert text.count(escape(problem)) == 2  # in the answer, and where what went wrong stands
    assert "delivered the original's rows" not in text


def test_what_was_planned_and_not_tried_is_told(make_results, swept, measured):
    found = make_results(swept)
    most = max(one.files for one in swept)
    tried = len({one.trial for one in swept if one.files == most})
    header = structs.replace(found.header, planned={"frame": Planned(files=9 * most, settings=100)})
    text = markdown_report(report([measured(replace(found, header=header))]))
    assert f"frame: measured on {most} of {9 * most} files, {tried} of 100 settings tried" in text


def test_ceilings_above_a_stage_are_no_marks(make_results, make_sample, measured):
    stages = {f"stage_{name}_s": 0.02 for name in ("plan", "read", "decode", "convert", "gather",
                                                   "cache", "handover", "step")}  # fmt: skip
    known = {**stages, "ceiling_read_s": 0.06, "ceiling_decode_s": 0.01}
    samples = [
        make_sample("pytorch", turn, 0.16, phase="confirming", metrics=known) for turn in range(6)
    ]
    chart = next(
        one for one in report([measured(make_results(samples))]).charts if "stages" in one.name
    )
    rows = {row["stage"]: row for row in values_of(chart.spec) if "stage" in row}
    assert rows["read"]["least"] is None
    assert rows["decode"]["least"] is not None


def test_odd_samples_are_left_out_and_told(make_results, make_sample, measured):
    odd = [
        make_sample("original", 0, 1.0), make_sample("pytorch", 0, 0.0),
        make_sample("tensorflow", 0, 0.1, rows=0, verdict="unverified"),
    ]  # fmt: skip
    text = markdown_report(report([measured(make_results(odd))]))
    assert "left out: frame with pytorch" in text
    assert "left out: frame with tensorflow" in text


def test_what_is_not_verified_never_stands_for_what_is(make_results, make_sample, measured):
    samples = [
        make_sample("pytorch", 0, 1.0, num_workers=1),
        make_sample("pytorch", 0, 0.1, num_workers=2, verdict="unverified"),
        make_sample("own:f", 0, 0.5, verdict="unverified"),
    ]
    shown = measured(make_results(samples)).summaries
    assert [(one.backend, one.verdict) for one in shown] == [
        ("pytorch", "ok"), ("own:f", "unverified"),
    ]  # fmt: skip


def test_samples_are_thinned_evenly_and_medians_are_of_all(make_results, make_sample, measured):
    samples = [
        make_sample("pytorch", turn, 0.1 + turn / 1000 + pass_, phase="confirming", pass_=pass_)
        for turn in range(150) for pass_ in range(3)
    ]  # fmt: skip
    chart = next(
        one for one in report([measured(make_results(samples))]).charts if "samples" in one.name
    )
    assert "of 450 passes" in chart.caption
    assert "passes = 450" in chart.caption
    kinds = {row["pass"] for row in values_of(chart.spec) if "pass" in row}
    assert kinds == {"first pass", "later passes"}


def test_copies_to_a_gpu_are_shown_where_they_were_measured(told):
    chart = next(one for one in told("a GPU").charts if one.name == "transfer-batches")
    rows = values_of(chart.spec)
    assert {row["kind"]: row["rate"] for row in rows}["pinned"] == pytest.approx(10.0)
    assert {row["n"] for row in rows} == {3}  # once a launch, whatever its passes
    assert "n = 3 launches" in chart.caption


def test_several_results_stand_side_by_side_with_what_differs_first(told):
    found = told("two machines")
    table = grids(found)[0]
    assert table.columns == ("What", "laptop", "ci")
    differing = {row[0]: row[1:] for n, row in enumerate(table.rows) if n in table.marked}
    assert differing["machine: CPUs"][1] == "64"
    assert "frame: workers" in {row[0] for row in table.rows}
    assert found.charts[0].name == "machines-frame"
    assert len({chart.name for chart in found.charts}) == len(found.charts)


@pytest.mark.slow
def test_tables_of_thousands_of_trials_are_cut_and_say_so(told):
    table = next(one for one in grids(told("many")) if one.columns[:2] == ("Job", "Loader"))
    assert len(table.rows) == MOST_TRIALS
    assert "1,700 slower ones" in table.title


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_one_file_that_may_fetch_nothing(told, kind):
    page = html_report(told(kind))
    assert len(page.encode()) < 3_000_000
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert page.count("vegaEmbed = vegaEmbed") <= 1


def test_hostile_names_stay_text(told):
    found = told("hostile")
    page = html_report(found)
    assert "<script>alert" not in page
    assert "<img" not in page.partition('type="application/json">')[0]
    assert entities.escape(EVIL.partition("\n")[0]) in page
    specs = page.partition('type="application/json">')[2].partition("</script>")[0]
    assert json.loads(specs)["specs"].keys() == {chart.name for chart in found.charts}
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown_report(found))
    raw = [token.content for token in tokens if token.type == "html_block"]
    raw += [t.content for token in tokens for t in token.children or () if t.type == "html_inline"]
    folds = r"<details><summary>[^<>]*</summary>\s*|</details>\s*"
    assert all(re.fullmatch(folds, part) for part in raw), raw
    assert not any("<script" in part or "<img" in part for part in raw)
    headings = [tokens[n + 1].content for n, one in enumerate(tokens) if one.type == "heading_open"]
    assert len(headings) == 1 + len(found.sections) - 1  # all but the table of all settings
    for chart in found.charts:
        assert "<script" not in as_svg(chart)


def test_markdown_shows_pictures_and_folds_what_few_look_for(told):
    found = told("whole")
    text = markdown_report(found, {chart.name: f"c/{chart.name}.png" for chart in found.charts})
    assert "![Speedup over the original: frame](<c/speedup-frame.png>)" in text
    assert "| **pytorch\\*** | **2 workers, memory cache** | **11" in text
    assert "<details><summary>frame: pytorch with 2 workers" in text
    assert "All settings" not in text
    assert "```\nfeedrate tune data\n```" in text


def test_charts_tell_loaders_apart_by_colour_and_shape_and_name_their_units(told):
    charts = {chart.name: json.dumps(chart.spec) for chart in told("whole").charts}
    for name in ("workers-frame", "files-frame", "memory-frame"):
        assert COLOURS["pytorch"] in charts[name]
        assert '"shape"' in charts[name]
    assert "rows/s (log scale)" in charts["workers-frame"]
    assert "peak memory (PSS, MiB)" in charts["memory-frame"]
    assert "time of a pass (s, log scale)" in charts["samples-frame"]
    assert all(chart.caption for chart in told("whole").charts)
    assert as_png(told("whole").charts[0]).startswith(b"\x89PNG")


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["feedrate", "report", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.run()
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


@pytest.fixture
def journal(tmp_path, make_results, swept):
    found = make_results(swept)
    path = tmp_path / "laptop.jsonl"
    path.write_bytes(encode_line(found.header) + b"".join(map(encode_line, found.samples)))
    return path


@pytest.mark.slow
def test_the_command_writes_everything_that_was_asked_for(journal, tmp_path, monkeypatch, capsys):
    text, folder = tmp_path / "r.md", tmp_path / "charts"
    assert call(monkeypatch, capsys, journal, "--html", journal / "r.html")[0] == 2  # no folder
    page = tmp_path / "r.html"
    code, out, _ = call(monkeypatch, capsys, journal, "--html", page, "--markdown", text)
    assert (code, out) == (0, "")
    assert (tmp_path / "r-charts" / "speedup-frame.png").exists()
    assert "(<r-charts/speedup-frame.png>)" in text.read_text()
    assert call(monkeypatch, capsys, journal, "--charts", folder, "--markdown", text)[0] == 0
    assert {path.suffix for path in folder.iterdir()} == {".png", ".svg"}
    assert "(<charts/speedup-frame.png>)" in text.read_text()
    code, out, _ = call(monkeypatch, capsys, journal)
    assert "█" in out
    assert max(map(len, out.splitlines())) <= 80


def test_what_is_read_is_not_written_over(journal, tmp_path, monkeypatch, capsys):
    before = journal.read_bytes()
    for arguments, told in (
        ([journal, "--csv", journal], "is one of the results"),
        ([journal, "--html", tmp_path / "x", "--markdown", tmp_path / "x"], "is written already"),
        ([journal, "--html", tmp_path / "gone" / "x"], f"there is no folder {tmp_path / 'gone'}"),
    ):
        code, _, err = call(monkeypatch, capsys, *arguments)
        assert code == 2
        assert told in err
    assert journal.read_bytes() == before
    assert not (tmp_path / "gone").exists()


def test_what_is_no_plain_file_is_written_into(journal, tmp_path, monkeypatch, capsys):
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    real.write_text("before")
    link.symlink_to(real)
    assert call(monkeypatch, capsys, journal, "--csv", link)[0] == 0
    assert link.is_symlink()
    assert real.read_text().startswith("results,trial")
    assert call(monkeypatch, capsys, journal, "--csv", "/dev/null")[0] == 0
    assert not os.path.isfile("/dev/null")  # noqa: PTH113 - a device, as before


def test_a_launch_that_was_cut_is_no_evidence(make_results, make_sample, measured):
    samples = [
        make_sample(backend, 0, seconds, phase="confirming", pass_=pass_)
        for backend, seconds, passes in (("original", 1.0, 2), ("pytorch", 0.1, 1))
        for pass_ in range(passes)
    ]
    text = markdown_report(report([measured(make_results(samples))]))
    assert "left out: frame with pytorch" in text
    assert "no run of it has all its passes" in text
    assert "10.0" not in text


def test_each_loader_has_one_colour_in_all_charts(make_results, make_sample, measured):
    samples = [
        make_sample(f"m:{name}", turn, 0.1 * (1 + number) + turn / 100, num_workers=workers)
        for number, name in enumerate(("a", "b"))
        for turn in range(2) for workers in ((0, 1) if name == "b" else (0,))
    ]  # fmt: skip
    found = report([measured(make_results([*samples, make_sample("original", 0, 1.0)]))])
    colours = {}
    for chart in found.charts:
        for scale in re.findall(
            r"'scale': ({'domain': [^}]*?'range': \[[^]]*\]})", str(chart.spec)
        ):
            known = ast.literal_eval(scale)
            for name, colour in zip(known["domain"], known["range"], strict=True):
                if str(colour).startswith("#"):
                    colours.setdefault(name, set()).add(colour)
    assert {name: len(some) for name, some in colours.items()} == {
        "original": 1,
        "m:a": 1,
        "m:b": 1,
    }


def test_a_missing_extra_is_named(journal, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("feedrate.harness.cli.report_commands.is_installed", lambda _: False)
    code, _, err = call(monkeypatch, capsys, journal, "--html", tmp_path / "r.html")
    assert code == 2
    assert "feedrate[reports]" in err


def test_results_of_a_gate_are_no_sweep(tmp_path, make_results, make_sample, monkeypatch, capsys):
    found = make_results([make_sample("pytorch", 0, 1.0)], spec={"gate": {"base": "a"}})
    path = tmp_path / "gate.jsonl"
    path.write_bytes(encode_line(found.header))
    code, _, err = call(monkeypatch, capsys, path)
    assert code == 2
    assert "of a gate" in err


def test_files_are_told_apart_by_as_many_folders_as_it_takes(tmp_path):
    names = distinct_names([tmp_path / "a" / "r.jsonl", tmp_path / "b" / "r.jsonl"])
    assert list(names.values()) == ["a/r", "b/r"]
    assert list(distinct_names([tmp_path / "r.jsonl"]).values()) == ["r"]


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed to open the page in")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_a_browser_draws_every_chart_and_complains_of_nothing(told, tmp_path, kind):
    found, page = told(kind), tmp_path / "report.html"
    page.write_text(html_report(found), encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0",
            "--virtual-time-budget=60000", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    figure = r'<div class="chart[^"]*" id="chart-[^>]*>(?:(?!</figure>).)*?<svg'
    drawn = re.findall(figure, done.stdout, re.DOTALL)
    assert len(drawn) == len(found.charts)
    if found.charts:
        assert f'data-drawn="{len(found.charts)}"' in done.stdout
    assert "could not be drawn" not in done.stdout.partition("<script")[0]
