"""The simulated cluster, and the model of growth in docs/scale.md."""

import pytest

from benchmarks.cluster import simulate, sweep_of
from benchmarks.scale import PAGE, Point, fit, growth, with_tables


@pytest.fixture(scope="module")
def sweep():
    return sweep_of(jobs=1, files=100, repeats=4)[1]


def test_a_simulated_sweep_runs_each_launch_once(sweep):
    alone, shared = simulate(sweep, 1), simulate(sweep, 8)
    assert alone.launches == shared.launches == 4 * len(sweep.trials)
    assert alone.seconds == pytest.approx(alone.work_s)
    assert alone.share_on_original_node == 1
    assert shared.seconds < alone.seconds / 5


def test_dead_nodes_lose_no_launch(sweep):
    went = simulate(sweep, 8, dying={1: 10.0, 5: 30.0})
    assert went.launches == 4 * len(sweep.trials)
    assert went.repeated == 2


def test_the_model_is_a_line_whose_error_is_that_of_the_largest_size():
    points = [Point(size, 1 + size / 1000, 5 * 2**20) for size in (1000, 2000, 4000)]
    constant, slope = fit(points, lambda one: one.seconds)
    assert constant == pytest.approx(1)
    assert slope == pytest.approx(1 / 1000)
    rows = growth([*points[:2], Point(4000, 10.0, 5 * 2**20)], "files")
    assert rows[2][3] == "time -50%, memory +0%"  # 5 s instead of 10


def test_every_part_has_its_place_in_the_page():
    text = PAGE.read_text(encoding="utf-8")
    for title in ("planning", "footers", "streaming", "tuning", "ranks", "ray", "cluster"):
        assert "| new |" in with_tables(text, {title: "| new |"})
    with pytest.raises(ValueError, match="no place for another"):
        with_tables(text, {"another": ""})
