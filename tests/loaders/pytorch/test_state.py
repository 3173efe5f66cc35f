"""Stopping in the middle of an epoch and going on, in another loader, with nothing lost."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
import torch
from feedrate.loaders import LoaderSettings, ParquetDataset, PyTorchDataLoader
from feedrate.loaders.base.errors import InputError
from feedrate.loaders.pytorch import state as torch_state

from .torch_rows import FEATURES, KINDS, ROWS, dataset_of, frame_of, pickled, rows_of, write_files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("rows"))


def loader_of(dataset, num_workers=0, batch_size=16, worker_kind="thread", prefetch=2, **options):
    loader = PyTorchDataLoader(num_workers, prefetch_factor=prefetch, worker_kind=worker_kind)
    return loader.create_dataloader(dataset, batch_size, **options)


def sent(state):
    """A state as it comes out of a checkpoint."""
    return json.loads(json.dumps(state))


def some(iterator, count):
    return rows_of(itertools.islice(iterator, count))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [0, 1, 5, 15, 16])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_goes_on_where_it_stopped_whatever_the_workers(kind, stop, shuffle, files):
    whole = loader_of(dataset_of(kind, files), shuffle=shuffle, seed=3)
    epochs = [rows_of(whole) for _ in range(3)]
    for before, after in (((0, 0), (2, 2)), ((3, 4), (0, 2)), ((2, 2), (1, 0))):
        first = loader_of(
            dataset_of(kind, files), before[0], prefetch=before[1], shuffle=shuffle, seed=3
        )
        rows_of(first)
        head = some(iter(first), stop)
        state = sent(first.state_dict())
        assert len(json.dumps(state)) < 1000
        second = loader_of(
            dataset_of(kind, files), after[0], prefetch=after[1], shuffle=shuffle, seed=3
        )
        second.load_state_dict(state)
        assert second.state_dict() == state
        assert len(second) == len(whole)
        tail = rows_of(second)
        if stop == len(whole):  # the epoch was over: the state is that of the next one's start
            assert (head, tail) == (epochs[1], epochs[2])
        else:
            assert head + tail == epochs[1]
            assert rows_of(second) == epochs[2]


@pytest.mark.parametrize("kind", ["frame", "frame, kept", "files", "stream"])
@pytest.mark.parametrize("way", [("process", "thread"), ("thread", "process")])
def test_worker_processes_and_threads_take_over_from_each_other(kind, way, files):
    workers = {"process": 2, "thread": 3}
    whole = rows_of(loader_of(dataset_of(kind, files), seed=3))
    first = loader_of(dataset_of(kind, files), workers[way[0]], worker_kind=way[0], seed=3)
    batches = iter(first)
    head = some(batches, 7)
    state = sent(first.state_dict())
    assert state["batches"] == 7
    del batches
    second = loader_of(dataset_of(kind, files), workers[way[1]], worker_kind=way[1], seed=3)
    second.load_state_dict(state)
    assert head + rows_of(second) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_counts_what_was_yielded_not_what_is_ready(kind, files):
    loader = loader_of(dataset_of(kind, files), 3, prefetch=8, seed=1)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batches"]) == (0, 0)
    counted = [loader.state_dict()["batches"] for _ in loader]
    assert counted == [*range(1, 16), 0]
    assert loader.state_dict()["epoch"] == 1
    loader.set_epoch(7)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batches"]) == (7, 0)


def test_batches_of_a_transform_are_counted_too(files):
    for kind in ("frame", "files", "stream"):
        options = {"transform": torch.neg}
        whole = [y.tolist() for _, y in loader_of(dataset_of(kind, files, **options), seed=2)]
        first = loader_of(dataset_of(kind, files, **options), 2, seed=2)
        batches = iter(first)
        head = [next(batches)[1].tolist() for _ in range(4)]
        second = loader_of(dataset_of(kind, files, **options), 1, seed=2)
        second.load_state_dict(sent(first.state_dict()))
        assert head + [y.tolist() for _, y in second] == whole


def test_a_drawn_seed_is_in_the_state_for_all_later_epochs(files):
    first = loader_of(dataset_of("stream", files))
    head = some(iter(first), 3)
    state = sent(first.state_dict())
    second = loader_of(dataset_of("stream", files))
    second.load_state_dict(state)
    tail = rows_of(second)
    assert sorted(head + tail) == list(range(ROWS))
    first.load_state_dict(state)
    assert rows_of(first) == tail
    assert rows_of(first) == rows_of(second)
    fresh = loader_of(dataset_of("frame"))
    before = fresh.state_dict()
    other = loader_of(dataset_of("frame"))
    other.load_state_dict(before)
    assert rows_of(other) == rows_of(fresh)


def test_drop_last_is_kept_to(files):
    first = loader_of(dataset_of("files", files), seed=1, drop_last=True)
    head = some(iter(first), 4)
    second = loader_of(dataset_of("files", files), 2, seed=1, drop_last=True)
    second.load_state_dict(first.state_dict())
    tail = rows_of(second)
    assert len(head + tail) == len(set(head + tail)) == ROWS // 16 * 16


def test_ranks_go_on_from_the_state_of_one_of_them(files):
    for kind in ("frame", "stream"):
        whole = []
        resumed = []
        state = None
        for rank in (0, 1):
            options = {"seed": 4, "rank": rank, "world_size": 2}
            whole += rows_of(loader_of(dataset_of(kind, files), **options))
            first = loader_of(dataset_of(kind, files), **options)
            resumed += some(iter(first), 3)
            state = state or first.state_dict()
            second = loader_of(dataset_of(kind, files), 2, **options)
            second.load_state_dict(state)
            resumed += rows_of(second)
        assert resumed == whole


def test_training_that_sets_epochs_itself_goes_on_too(files):
    first = loader_of(dataset_of("files", files), seed=4)
    first.set_epoch(5)
    head = some(iter(first), 3)
    second = loader_of(dataset_of("files", files), seed=4)
    second.load_state_dict(first.state_dict())
    second.set_epoch(5)
    assert sorted(head + rows_of(second)) == list(range(ROWS))
    second.load_state_dict(first.state_dict())
    second.set_epoch(6)  # another epoch starts at its beginning
    assert len(rows_of(second)) == ROWS
    second.set_epoch(5)
    assert len(rows_of(second)) == ROWS


def test_a_loader_can_be_resumed_again_and_pickled(files):
    loader = loader_of(dataset_of("stream", files), seed=4)
    head = some(iter(loader), 3)
    state = loader.state_dict()
    tails = []
    for one in (loader, loader, pickled(loader)):
        one.load_state_dict(state)
        tails.append(rows_of(pickled(one)))
    assert tails[0] == tails[1] == tails[2]
    assert sorted(head + tails[0]) == list(range(ROWS))


def test_a_state_of_another_loader_is_refused_with_what_differs(files):
    def with_window(window):
        settings = LoaderSettings(shuffle_window=window, seed=1, batch_size=16)
        loader = PyTorchDataLoader.from_settings(settings)
        return loader.create_dataloader(dataset_of("stream", files))

    base = {"batch_size": 16, "seed": 1}
    state = loader_of(dataset_of("files", files), **base).state_dict()
    changed = [
        ({"batch_size": 32}, r"batch_size is 16 in the state and 32 here"),
        ({"shuffle": False}, r"shuffle is True in the state and False here"),
        ({"drop_last": True}, r"drop_last is False in the state and True here"),
        ({"seed": 2}, r"seed is 1 in the state and 2 here"),
    ]
    for change, message in changed:
        loader = loader_of(dataset_of("files", files), **{**base, **change})
        with pytest.raises(InputError, match=message):
            loader.load_state_dict(state)
    with pytest.raises(InputError, match="shuffle_window is 1 in the state and 3 here"):
        with_window(3).load_state_dict(with_window(1).state_dict())
    for dataset, message in (
        (dataset_of("files", files[:4]), "rows is 250 in the state and 201 here"),
        (ParquetDataset(files, ["half", "row"], "label"), r"features is \['row', 'half', 'flag'\]"),
        (ParquetDataset(files, FEATURES), "target is 'label' in the state and None here"),
        (dataset_of("files", files[::-1]), "data is 'files "),
        (dataset_of("frame"), "data is 'files "),
    ):
        with pytest.raises(InputError, match=message):
            loader_of(dataset, **base).load_state_dict(state)
    memory = loader_of(dataset_of("frame"), **base).state_dict()
    other = ParquetDataset.from_dataframe(frame_of(1, ROWS + 1), FEATURES, "label")
    with pytest.raises(InputError, match="data is 'rows "):
        loader_of(other, **base).load_state_dict(memory)


def ranks_of(kind, files, world_size, **options):
    shares = [{"rank": rank, "world_size": world_size} for rank in range(world_size)]
    return [loader_of(dataset_of(kind, files), seed=3, **share, **options) for share in shares]


@pytest.mark.parametrize(
    ("kind", "worker_kind", "legs"),
    [
        *(
            (kind, "thread", legs)
            for kind in KINDS
            for legs in (
                ((1, 7), (2, 100)),
                ((3, 2), (2, 3), (4, 100)),
                ((2, 0), (3, 100)),
                ((4, 4), (1, 100)),
            )
        ),
        ("stream", "process", ((2, 2), (1, 100))),  # processes take a second to start
    ],
)
def test_an_epoch_continues_on_another_number_of_ranks(kind, worker_kind, legs, files):
    delivered, state = [], None
    for world_size, batches in legs:
        workers = {"num_workers": 1, "worker_kind": worker_kind}
        loaders = ranks_of(kind, files, world_size, batch_size=8, **workers)
        counts, states = set(), []
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
            running = iter(loader)
            part = list(itertools.islice(running, batches))
            counts.add(len(part))
            delivered += rows_of(part)
            states.append(sent(loader.state_dict()))
        assert len(counts) == 1  # ranks take equally many steps
        assert states.count(states[0]) == len(states)
        state = states[0]
    assert len(set(delivered)) == len(delivered)
    assert len(delivered) > ROWS - legs[-1][0]
    assert (state["epoch"], state["batches"], state["legs"]) == (1, 0, [])
    for loader in loaders:
        loader.load_state_dict(state)
    following = [row for loader in loaders for row in rows_of(loader)]
    assert len(set(following)) == len(following) > ROWS - legs[-1][0]


def test_a_state_without_legs_is_read(files):
    whole = loader_of(dataset_of("stream", files), seed=3)
    first = loader_of(dataset_of("stream", files), seed=3)
    head = some(iter(first), 5)
    state = {**first.state_dict(), "version": 2}
    del state["legs"]
    second = loader_of(dataset_of("stream", files), seed=3)
    second.load_state_dict(state)
    assert head + rows_of(second) == rows_of(whole)


def test_moved_files_and_other_ways_to_hold_a_frame_are_no_other_dataset(files, tmp_path):
    state = loader_of(dataset_of("stream", files), seed=1).state_dict()
    loader_of(dataset_of("stream", write_files(tmp_path)), seed=1).load_state_dict(state)
    state = loader_of(dataset_of("frame"), seed=1).state_dict()
    for kind in ("frame, kept", "files in memory"):
        loader_of(dataset_of(kind, files), seed=1).load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not one that state_dict"),
        ({"version": 99}, "version 99"),
        ({"batches": -1}, "damaged: batches is -1"),
        ({"epoch": None}, "damaged: epoch is None"),
        ({"batches": 17}, "damaged: it is at row 0 of 250 and then at batch 17 of 16"),
        ({"world_size": 2, "batches": 9}, "damaged: it is at row 288 of 250 and then at batch 0"),
        ({"world_size": -1}, "damaged: world_size is -1"),
        ({"world_size": 0}, "damaged: world_size is 0"),
        ({"legs": 5}, "damaged: legs is 5"),
        ({"legs": None}, "damaged: legs is None"),
        ({"legs": [[2]]}, r"damaged: legs is \[\[2\]\]"),
        ({"legs": [[0, 16]]}, "damaged: legs is"),
        ({"legs": [[2, 160]]}, "damaged: it is at row 320 of 250"),
    ],
)
def test_a_damaged_state_is_refused(change, message):
    loader = loader_of(dataset_of("frame"), seed=1)
    with pytest.raises(InputError, match=message):
        loader.load_state_dict({**loader.state_dict(), **change})
    with pytest.raises(InputError, match="not one that state_dict"):
        loader.load_state_dict([])
    assert len(rows_of(loader)) == ROWS


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_state_names_its_numpy_and_is_refused_where_another_one_draws_other_orders(
    shuffle, files, monkeypatch
):
    loader = loader_of(dataset_of("stream", files), shuffle=shuffle, seed=1)
    state = sent(loader.state_dict())
    assert state["numpy"] == np.__version__
    monkeypatch.setattr(torch_state.Order, "permutation", lambda _, rows, *__: np.arange(rows))
    other = loader_of(dataset_of("stream", files), shuffle=shuffle, seed=1)
    if not shuffle:
        other.load_state_dict(state)
        return
    told = f"was shuffled by numpy {re.escape(np.__version__)}, .* draws another order"
    with pytest.raises(InputError, match=told):
        other.load_state_dict(state)
