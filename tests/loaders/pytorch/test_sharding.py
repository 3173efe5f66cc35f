"""Rows go to one rank each, once, whoever shards: the loader, torch, Accelerate or Lightning."""

from __future__ import annotations

import inspect
import pickle
from types import SimpleNamespace

import pytest
import torch
from feedrate.loaders import LoaderSettings, ParquetDataset, PyTorchDataLoader
from feedrate.loaders.base.errors import InputError
from feedrate.loaders.pytorch import samplers as torch_samplers
from feedrate.loaders.pytorch.feed import FeedDataLoader
from feedrate.loaders.training.epochs import Shard
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
)

from .torch_rows import KINDS, ROWS, dataset_of, frame_of, rows_of, write_files

MAP_STYLE = [kind for kind in KINDS if kind != "stream"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("rows"))


def loader_of(dataset, **options):
    return PyTorchDataLoader(2).create_dataloader(dataset, 10, seed=1, **options)


def made_anew(loader, sampler):
    """What Lightning does: the class, called with what its attributes say and with a sampler."""
    parameters = inspect.signature(type(loader).__init__).parameters
    arguments = {
        name: value
        for name, value in vars(loader).items()
        if name in parameters and parameters[name].default is not value
    }
    arguments.update(sampler=sampler, shuffle=False, batch_sampler=None)
    return type(loader)(**arguments)


def sharded_batches(batch_sampler, rank, world_size):
    """What Accelerate does: every world_size-th batch of the loader's batch_sampler."""
    return [batch for number, batch in enumerate(batch_sampler) if number % world_size == rank]


def test_all_ranks_take_their_share_from_the_process_group(files, monkeypatch):
    group = torch.distributed
    for kind in ("frame", "stream"):
        shares = []
        for rank in range(4):
            monkeypatch.setattr(group, "is_initialized", lambda: True)
            monkeypatch.setattr(group, "get_rank", lambda rank=rank: rank)
            monkeypatch.setattr(group, "get_world_size", lambda: 4)
            loader = loader_of(dataset_of(kind, files), shard="auto")
            assert loader.shard == Shard(rank, 4)
            shares.append(rows_of(loader))
        assert [len(share) for share in shares] == [62] * 4
        assert len(set().union(*shares)) == 248


def test_without_a_process_group_auto_means_all_rows(files):
    assert not torch.distributed.is_initialized()
    assert sorted(rows_of(loader_of(dataset_of("files", files), shard="auto"))) == list(range(ROWS))


def test_a_real_process_group_is_asked(files, tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        loader = loader_of(dataset_of("stream", files), shard="auto")
    finally:
        torch.distributed.destroy_process_group()
    assert loader.shard == Shard(0, 1)
    assert sorted(rows_of(loader)) == list(range(ROWS))


def test_shares_that_cannot_be_are_refused(files):
    dataset = dataset_of("files", files)
    with pytest.raises(InputError, match="shard='auto' finds rank and world_size"):
        loader_of(dataset, shard="auto", rank=0, world_size=2)
    with pytest.raises(InputError, match="shard is 'all'"):
        loader_of(dataset, shard="all")
    few = ParquetDataset.from_dataframe(frame_of(0, 3), ["row"])
    assert len(loader_of(few, rank=2, world_size=3)) == 1
    with pytest.raises(InputError, match="world_size is 4 and there are 3 rows"):
        loader_of(few, rank=0, world_size=4)


@pytest.mark.parametrize("kind", MAP_STYLE)
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_loader_made_anew_with_a_distributed_sampler_has_that_share(kind, shuffle, files):
    shares = []
    for rank in range(2):
        loader = loader_of(dataset_of(kind, files), shuffle=shuffle)
        assert isinstance(loader.sampler, RandomSampler if shuffle else SequentialSampler)
        sampler = DistributedSampler(loader.dataset, num_replicas=2, rank=rank, shuffle=shuffle)
        again = made_anew(loader, sampler)
        assert again.sampler is sampler
        assert (again.shard, again.batch_size, len(again)) == (Shard(rank, 2), 10, 13)
        first, second = rows_of(again), rows_of(again)
        assert (first != second) == shuffle
        sampler.set_epoch(7)
        seventh = rows_of(again)
        again.set_epoch(7)
        assert rows_of(again) == seventh
        shares.append(first)
        # Made anew once more, it is the same share of all rows, not a share of the share.
        assert rows_of(made_anew(again, sampler)) == (seventh if shuffle else first)
    assert sorted(shares[0] + shares[1]) == list(range(ROWS))
    assert len(shares[0]) == len(shares[1])


@pytest.mark.parametrize("kind", MAP_STYLE)
def test_a_loader_with_a_share_shows_a_distributed_sampler_so_that_none_is_put_in(kind, files):
    loader = loader_of(dataset_of(kind, files), rank=1, world_size=2)
    assert isinstance(loader.sampler, DistributedSampler)
    assert (loader.sampler.rank, loader.sampler.num_replicas) == (1, 2)
    other = DistributedSampler(loader.dataset, num_replicas=4, rank=1)
    with pytest.raises(InputError, match="rank 1 of 2 and got a sampler for rank 1 of 4"):
        made_anew(loader, other)


@pytest.mark.parametrize("kind", MAP_STYLE)
@pytest.mark.parametrize("explicit", [False, True])
def test_the_batch_sampler_covers_the_rows_of_all_ranks(kind, explicit, files):
    delivered = []
    for rank in range(2):
        share = {"rank": rank, "world_size": 2} if explicit else {}
        loader = loader_of(dataset_of(kind, files), **share)
        batches = sharded_batches(loader.batch_sampler, rank, 2)
        wrapped = DataLoader(loader.dataset, batch_sampler=batches, collate_fn=loader.collate_fn)
        delivered += rows_of(wrapped)
    assert sorted(delivered) == list(range(ROWS))


def test_the_shown_sampler_visits_files_one_after_another(files):
    loader = loader_of(dataset_of("files", files))
    order = list(loader.sampler)
    assert sorted(order) == list(range(ROWS))
    assert order == loader.dataset.rows.indices(loader._next_order()).tolist()
    assert list(loader.sampler) != order
    loader.sampler.set_epoch(0)
    assert list(loader.sampler) == order


@pytest.mark.parametrize("worker_kind", ["thread", "process"])
def test_a_batch_sampler_that_is_put_in_decides(worker_kind, files):
    settings = LoaderSettings(batch_size=10, num_workers=2, worker_kind=worker_kind, shuffle=False)
    batches = BatchSampler(range(ROWS - 1, -1, -1), 40, False)
    loader = FeedDataLoader(
        dataset_of("files", files), settings, batch_sampler=batches, batch_size=1, drop_last=False
    )
    assert len(loader) == 7
    assert rows_of(loader) == list(range(ROWS - 1, -1, -1))
    with pytest.raises(InputError, match="only that knows the position"):
        loader.state_dict()
    odd = FeedDataLoader(dataset_of("frame"), settings, sampler=range(0, ROWS, 2))
    assert rows_of(odd) == list(range(0, ROWS, 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("explicit", [False, True])
def test_accelerate_shards_once(kind, shuffle, explicit, files):
    accelerate = pytest.importorskip("accelerate.data_loader")
    shares = []
    for rank in range(2):
        share = {"rank": rank, "world_size": 2} if explicit else {}
        loader = loader_of(dataset_of(kind, files), shuffle=shuffle, **share)
        wrapped = accelerate.prepare_data_loader(
            loader, num_processes=2, process_index=rank, put_on_device=False
        )
        shares.append(rows_of(wrapped))
    # Accelerate makes ranks even by handing some rows out again: 250 rows in batches of 10.
    assert sorted(set(shares[0] + shares[1])) == list(range(ROWS))
    assert len(shares[0]) == len(shares[1]) == 130
    assert len(set(shares[0]) & set(shares[1])) <= 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("mode", ["train", "validate", "predict"])
def test_lightning_shards_once(kind, explicit, mode, files):
    data = pytest.importorskip("pytorch_lightning.utilities.data")
    connector = pytest.importorskip("pytorch_lightning.trainer.connectors.data_connector")
    stages = pytest.importorskip("pytorch_lightning.trainer.states").RunningStage
    stage = {
        "train": stages.TRAINING,
        "validate": stages.VALIDATING,
        "predict": stages.PREDICTING,
    }[mode]
    shares = []
    for rank in range(2):
        share = {"rank": rank, "world_size": 2} if explicit or kind == "stream" else {}
        loader = loader_of(dataset_of(kind, files), shuffle=mode == "train", **share)
        trainer = SimpleNamespace(
            _accelerator_connector=SimpleNamespace(
                use_distributed_sampler=True, is_distributed=True
            ),
            distributed_sampler_kwargs={"num_replicas": 2, "rank": rank},
            overfit_batches=0,
            state=SimpleNamespace(fn=None),
        )
        prepared = connector._DataConnector(trainer)._prepare_dataloader(
            loader, shuffle=mode == "train", mode=stage
        )
        assert isinstance(prepared, FeedDataLoader)
        shares.append(rows_of(prepared))
    assert sorted(shares[0] + shares[1]) == list(range(ROWS))
    assert len(shares[0]) == len(shares[1]) == ROWS // 2
    sequential = data._update_dataloader(loader_of(dataset_of("frame")), SequentialSampler([]))
    assert rows_of(sequential) == list(range(ROWS))


def test_lightning_makes_loaders_anew_that_hooks_returned(files):
    data = pytest.importorskip("lightning_fabric.utilities.data")
    update = pytest.importorskip("pytorch_lightning.utilities.data")._update_dataloader
    with data._replace_dunder_methods(DataLoader, "dataset"):
        loader = loader_of(dataset_of("files", files))
    again = update(loader, DistributedSampler(loader.dataset, num_replicas=2, rank=1))
    assert again.shard == Shard(1, 2)
    assert len(set(rows_of(again))) == ROWS // 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("window", [1, 3])
def test_accelerate_gives_the_order_that_a_stream_has_alone(kind, num_workers, window, files):
    accelerator = pytest.importorskip("accelerate").Accelerator(cpu=True)
    settings = LoaderSettings(
        batch_size=10, num_workers=num_workers, seed=7, shuffle_window=window, pin_memory=False
    )
    alone, given = (FeedDataLoader(dataset_of(kind, files), settings) for _ in range(2))
    wrapped = accelerator.prepare(given)
    epochs = [rows_of(wrapped) for _ in range(3)]
    assert sorted(epochs[0]) == list(range(ROWS))
    assert epochs[0] != epochs[1]
    if kind == "stream":
        assert epochs == [rows_of(alone) for _ in range(3)]


@pytest.mark.parametrize("dispatch", [True, False])
def test_accelerate_shuffles_streams_in_both_ways_of_sharing(dispatch, files):
    accelerate = pytest.importorskip("accelerate")
    how = accelerate.DataLoaderConfiguration(dispatch_batches=dispatch)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=how)
    wrapped = accelerator.prepare(loader_of(dataset_of("stream", files), shuffle=True))
    first, second = rows_of(wrapped), rows_of(wrapped)
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second
    assert first != sorted(first)


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_plain_dataloader_of_what_a_loader_shows_is_shuffled_as_the_loader_is(
    seed, workers, persistent, files
):
    settings = LoaderSettings(batch_size=10, seed=seed, num_workers=0)
    shown = FeedDataLoader(dataset_of("stream", files), settings).dataset
    plain = DataLoader(
        shown, 10, num_workers=workers, persistent_workers=persistent and workers > 0,
        multiprocessing_context="forkserver" if workers else None,
    )  # fmt: skip
    epochs = [rows_of(plain) for _ in range(3)]
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, range(ROWS)]}) == 4
    assert rows_of(DataLoader(dataset_of("stream", files), 10)) == list(range(ROWS))


def test_a_stream_that_is_not_shuffled_is_shown_as_it_is(files):
    dataset = dataset_of("stream", files)
    assert FeedDataLoader(dataset, LoaderSettings(shuffle=False)).dataset is dataset
    loader = FeedDataLoader(dataset, LoaderSettings(seed=3, batch_size=10))
    anew = FeedDataLoader(loader.dataset, loader.settings)
    assert rows_of(anew) == rows_of(loader)
    assert loader.state_dict() == anew.state_dict()


@pytest.mark.parametrize("seed", [None, 7])
def test_ranks_agree_on_the_order_of_what_a_loader_shows(seed, files, monkeypatch):
    settings = LoaderSettings(batch_size=10, seed=seed, num_workers=0)
    shown = [FeedDataLoader(dataset_of("stream", files), settings).dataset for _ in range(2)]
    with monkeypatch.context() as group:
        group.setattr(torch_samplers, "process_group_shard", lambda: Shard(1, 2))
        sent = [pickle.loads(pickle.dumps(one)) for one in shown]  # noqa: S301 - our own
        here = [rows_of(DataLoader(one, 10)) for one in shown]
    there = [rows_of(DataLoader(one, 10)) for one in sent]  # where there is no process group
    assert here[0] == here[1] == there[0] == there[1]
    assert sorted(here[0]) == list(range(ROWS)) != here[0]
