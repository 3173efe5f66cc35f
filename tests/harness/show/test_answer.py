"""What is said of a recommendation: plain words first, intervals apart from them."""

import pytest
from feedrate.harness.choose.recommendation import recommend_all
from feedrate.harness.record.results import Header, Results
from feedrate.harness.record.statistics import MIN_LAUNCHES
from feedrate.harness.show.answer import answer, evidence_text
from feedrate.harness.show.terminal import as_text, sweep_view
from feedrate.loaders.base.machine import fingerprint

from ... import samples


@pytest.fixture
def found(dataset):
    """What is recommended of launches that took given seconds, by backend and pass.

    `found.results` has the launches.
    """

    def recommend(launches=MIN_LAUNCHES, job="frame", **seconds):
        every = [
            samples.sample(
                took * (1 + turn / 100), backend=backend, turn=turn, pass_=number, job=job,
                num_workers=0 if backend == "original" else 2,
                cache="none" if backend == "original" else "memory",
                prefetch=0 if backend == "original" else 2,
                metrics={"step_s": 0.01, "stall_pct": 34.0} if job == "stream" else {},
            )
            for turn in range(launches)
            for backend, times in seconds.items()
            for number, took in enumerate(times)
        ]  # fmt: skip
        header = Header(spec={}, environment=fingerprint(), dataset=dataset)
        recommend.results = Results(header, every, truncated=False)
        (one,) = recommend_all(recommend.results).found
        return one

    return recommend


def test_the_answer_has_no_brackets_and_says_what_how_fast_and_how_sure(found):
    one = found(original=(8.0, 8.0), pytorch=(1.0, 0.6))
    assert answer(one) == (
        "frame: use pytorch with 2 workers and the memory cache: 8.00× as fast as the original on "  # noqa: RUF001
        "the first pass, 10.0× over 2 passes. Evidence: strong."  # noqa: RUF001
    )


def test_intervals_stand_in_the_table_and_not_with_the_answer(found):
    one = found(original=(8.0, 8.0), pytorch=(1.0, 0.6))
    text = evidence_text(one)
    assert text.startswith("Closest rival original took 10.00 times as long, n=6")
    assert "8.00" not in text
    table = as_text(sweep_view(found.results, [one])).splitlines()
    row = next(number for number, line in enumerate(table) if line.startswith("pytorch*"))
    assert table[row].split()[-2:] == ["8.00×", "10.0×"]  # noqa: RUF001
    assert "n = 6" in table[row + 1]
    assert table[row + 1].split()[-2:] == ["8.00-8.00", "10.0-10.0"]
    assert "shared with the original: 97% (6)." in " ".join(" ".join(table).split())


def test_of_one_pass_there_is_one_speedup(found):
    one = found(original=(8.0,), pytorch=(1.0,))
    assert "8.00× as fast as the original. Evidence" in answer(one)  # noqa: RUF001
    assert " over " not in answer(one)


def test_where_the_original_is_the_choice_it_is_not_compared_with_itself(found):
    one = found(original=(1.0, 1.0), pytorch=(2.0, 2.0))
    assert answer(one) == "frame: use original. Evidence: strong."


def test_what_a_training_step_waits_is_said_where_there_was_one(found):
    assert "waits for batches 34.0% of the time" in evidence_text(
        found(job="stream", original=(8.0, 8.0), pytorch=(1.0, 1.0))
    )
    assert "waits" not in evidence_text(found(original=(8.0, 8.0), pytorch=(1.0, 1.0)))
