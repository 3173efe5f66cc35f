"""Real ranks: torch.distributed with DistributedDataParallel, one killed, resumed on fewer."""

import json
import multiprocessing
import os
import signal
import socket
from pathlib import Path

import pytest
import torch
from feedrate.loaders import PyTorchDataLoader, StreamingParquetDataset
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from .torch_rows import ROWS, write_files

pytestmark = pytest.mark.slow

PATIENCE_S = 120


def train_rank(environment, epochs, kill_at, folder, files):
    """Train a tiny model as a rank of a job; what it was given is in a file of each run and rank.

    Args:
        environment: variables, as torchrun sets them, and `RUN`.
        epochs: to train.
        kill_at: the step at which rank 1 kills itself.
        folder: of the checkpoint, which is continued if there is one.
        files: of the rows.
    """
    os.setsid()
    os.environ.update(environment)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    dataset = StreamingParquetDataset(files, ["row"])
    loader = PyTorchDataLoader(1).create_dataloader(dataset, 8, seed=5, shard="auto")
    if (folder / "state.json").exists():
        loader.load_state_dict(json.loads((folder / "state.json").read_text()))
    model = DistributedDataParallel(nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), 1e-9)
    seen = (folder / f"seen-{environment['RUN']}-{rank}").open("w")
    for _ in range(epochs):
        for step, x in enumerate(loader):
            optimizer.zero_grad()
            model(x).mean().backward()  # waits for all ranks
            optimizer.step()
            epoch = loader.epoch - 1
            seen.write(json.dumps([epoch, x.flatten().tolist()]) + "\n")
            seen.flush()
            if rank == 0 and step == kill_at - 3:  # the last checkpoint is some steps old
                (folder / "state.json").write_text(json.dumps(loader.state_dict()))
                (folder / "kept.json").write_text(json.dumps([epoch, step + 1]))
            if rank == 1 and step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
    distributed.destroy_process_group()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def train(run, world_size, arguments):
    """Run a trainer for each rank until all have ended, or one has failed; their exit codes."""
    known = {"RUN": run, "WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1"}
    known["MASTER_PORT"] = str(free_port())
    context = multiprocessing.get_context("forkserver")  # which has imported torch
    ranks = [
        context.Process(target=train_rank, args=({**known, "RANK": str(rank)}, *arguments))
        for rank in range(world_size)
    ]
    for rank in ranks:
        rank.start()
    try:
        for rank in (1, 0, *range(2, world_size)):
            ranks[rank].join(PATIENCE_S)
        return [rank.exitcode for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()


def seen_in(folder, run, rank):
    return [json.loads(line) for line in (folder / f"seen-{run}-{rank}").read_text().splitlines()]


def test_a_killed_training_goes_on_with_fewer_ranks_and_every_row_once(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # where the ranks find this module
    files = write_files(tmp_path)
    codes = train("first", 3, (2, 6, tmp_path, files))
    assert codes[1] == -signal.SIGKILL
    assert all(code not in (0, None) for code in codes)  # the others cannot go on without it
    epoch, steps = json.loads((tmp_path / "kept.json").read_text())
    assert epoch == 0
    before = [
        row
        for rank in range(3)
        for _, rows in seen_in(tmp_path, "first", rank)[:steps]
        for row in rows
    ]
    assert train("second", 2, (2, -1, tmp_path, files)) == [0, 0]
    after = [seen_in(tmp_path, "second", rank) for rank in range(2)]
    assert len(after[0]) == len(after[1])  # equal steps
    rest = [row for part in after for epoch, rows in part for row in rows if epoch == 0]
    following = [row for part in after for epoch, rows in part for row in rows if epoch == 1]
    assert len(set(before + rest)) == len(before + rest) >= ROWS - 1
    assert len(set(following)) == len(following) >= ROWS - 1
