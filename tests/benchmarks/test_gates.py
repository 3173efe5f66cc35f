"""The gate on made-up revisions, with fixed seeds; `python -m benchmarks.gate` takes others."""

import pytest

from benchmarks.gates import CELLS, NOISES, judged


def verdicts(runs, slower=(), first=0, **fields):
    return [judged(first + seed, slower, **fields).verdict for seed in range(runs)]


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.slow
def test_equal_revisions_pass(noise):
    found = verdicts(40, noise=noise)
    assert found.count("regression") == 0
    assert found.count("pass") >= 0.85 * 40


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.slow
def test_a_cell_that_is_slower_is_found_and_no_other_is_blamed(noise):
    runs = [judged(1000 + seed, [1.15], noise=noise) for seed in range(30)]
    blamed = [[one.cell for one in run.findings if one.verdict == "regression"] for run in runs]
    assert sum(cells == ["cell 0"] for cells in blamed) >= 0.9 * 30
    assert not any("cell 0" not in cells and cells for cells in blamed)
    assert len(runs[0].findings) == 2 * CELLS  # rows and time


@pytest.mark.slow
def test_a_smaller_slowdown_is_found_most_often():
    assert verdicts(40, [1.10], first=5000).count("regression") >= 0.75 * 40
