"""The speedup table: what stands in which order, and what it is compared with."""

from feedrate.harness.record.results import Header, Results
from feedrate.harness.record.speedup import LEGEND, REQUESTS_LEGEND, legend, speedup_tables
from feedrate.harness.show.markdown import as_markdown, escape
from feedrate.harness.show.terminal import as_text, sweep_view
from feedrate.loaders.base.machine import fingerprint
from feedrate.loaders.parquet.dataset import describe

from ... import samples


def results(*found):
    header = Header(spec={"passes": 1}, environment=fingerprint(), dataset=describe([]))
    return Results(header, list(found), truncated=False)


def one(backend, seconds):
    return [samples.sample(seconds, backend=backend, turn=turn) for turn in range(3)]


def test_a_table_has_what_raced_to_the_end_and_the_best_of_each_other_loader():
    found = results(
        *(
            samples.sample(seconds, backend=backend, num_workers=workers, turn=turn)
            for backend, workers, seconds, rounds in (
                ("original", 0, 4.0, 6), ("pytorch", 1, 3.0, 6), ("pytorch", 2, 2.9, 6),
                ("pytorch", 3, 3.5, 1), ("tensorflow", 1, 3.9, 1), ("tensorflow", 2, 3.8, 1),
            )
            for turn in range(rounds)
        )
    )  # fmt: skip
    (table,) = speedup_tables(found)
    shown = [(row.summary.backend, row.summary.settings.num_workers) for row in table.rows]
    assert shown == [("original", 0), ("pytorch", 2), ("pytorch", 1), ("tensorflow", 2)]
    assert [round(row.speedup.estimate, 2) for row in table.rows] == [1.0, 1.38, 1.33, 1.05]


def test_rows_are_in_the_order_of_the_rates_beside_them():
    # Medians of sums would have it the other way round.
    a, b = ((1, 9), (5, 4), (2, 1)), ((4, 4), (4, 4), (4, 4))
    found = results(
        *(
            samples.sample(seconds, num_workers=workers, turn=turn, pass_=number)
            for workers, rounds in ((1, a), (2, b))
            for turn, times in enumerate(rounds)
            for number, seconds in enumerate(times)
        )
    )
    found.header.spec["passes"] = 2
    (table,) = speedup_tables(found)
    assert [row.summary.settings.num_workers for row in table.rows] == [1, 2]
    rates = [row.summary.rows_per_s for row in table.rows]
    assert rates == sorted(rates, reverse=True)


def test_the_legend_is_under_the_tables():
    text = as_text(sweep_view(results(*one("original", 2.0))))
    assert "paired by round, so not the quotient" in " ".join(text.split())


def test_requests_in_flight_are_named_where_they_are_not_the_default():
    plain = legend(speedup_tables(results(*one("pytorch", 2.0))))
    assert REQUESTS_LEGEND not in plain
    found = results(*one("original", 2.0), samples.sample(1.0, requests=16, num_workers=2))
    (table,) = speedup_tables(found)
    assert table.rows[1].settings == "2 workers, no prefetch, 16 requests, no cache"
    assert legend([table]).endswith(REQUESTS_LEGEND)


def test_the_legend_explains_the_marks_in_use_once_each():
    assert legend(speedup_tables(results(*one("original", 2.0)))) == LEGEND
    found = results(
        *one("original", 2.0),
        samples.sample(1.0, verified_every=4),
        samples.sample(1.0, files=3, verdict="unverified"),
    )
    tables = speedup_tables(found, [sample.trial for sample in found.samples])
    assert len(tables) == 2
    start = "* recommended, ? rows not verified, ~ rows verified on a sample of the files. "
    assert legend(tables) == start + LEGEND
    assert as_markdown(found).count(escape("? rows not verified")) == 1
