"""Real ranks: torch.distributed with DistributedDataParallel, one killed, resumed on fewer."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from .torch_rows import ROWS, write_files

pytest.importorskip("torch")
pytestmark = pytest.mark.slow

PATIENCE_S = 120
TRAINER = """
import json, os, signal, sys
from pathlib import Path
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from feedrate.loaders import ParquetDataset, PyTorchDataLoader, StreamingParquetDataset

kind, epochs, kill_at, folder, *files = sys.argv[1:]
folder, epochs, kill_at = Path(folder), int(epochs), int(kill_at)
distributed.init_process_group("gloo")
rank = distributed.get_rank()
make = StreamingParquetDataset if kind == "stream" else ParquetDataset
loader = PyTorchDataLoader(1).create_dataloader(make(files, ["row"]), 8, seed=5, shard="auto")
if (folder / "state.json").exists():
    loader.load_state_dict(json.loads((folder / "state.json").read_text()))
model = DistributedDataParallel(nn.Linear(1, 1))
optimizer = torch.optim.SGD(model.parameters(), 1e-9)
seen = (folder / f"seen-{os.environ['RUN']}-{rank}").open("w")
for _ in range(epochs):
    for step, x in enumerate(loader):
        optimizer.zero_grad()
        model(x).mean().backward()  # waits for all ranks
        optimizer.step()
        epoch = loader.epoch - 1
        seen.write(json.dumps([epoch, x.flatten().tolist()]) + "\\n")
        seen.flush()
        if rank == 0 and step == kill_at - 3:  # the last checkpoint is some steps old
            (folder / "state.json").write_text(json.dumps(loader.state_dict()))
            (folder / "kept.json").write_text(json.dumps([epoch, step + 1]))
        if rank == 1 and step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
distributed.destroy_process_group()
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def train(run, world_size, arguments):
    """Run a trainer for each rank until all have ended, or one has failed; their exit codes."""
    port = free_port()
    ranks = []
    for rank in range(world_size):
        environment = {
            **os.environ, "RUN": run, "RANK": str(rank), "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        command = [sys.executable, "-c", TRAINER, *map(str, arguments)]
        ranks.append(
            subprocess.Popen(
                command, env=environment, stderr=subprocess.PIPE, start_new_session=True
            )
        )
    try:
        codes = [ranks[rank].wait(PATIENCE_S) for rank in ((1, 0, *range(2, world_size)))]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    return codes


def seen_in(folder, run, rank):
    return [json.loads(line) for line in (folder / f"seen-{run}-{rank}").read_text().splitlines()]


def test_a_killed_training_goes_on_with_fewer_ranks_and_every_row_once(tmp_path):
    kind, files = "stream", write_files(tmp_path)
    codes = train("first", 3, (kind, 2, 6, tmp_path, *files))
    assert codes[0] == -signal.SIGKILL
    assert all(code != 0 for code in codes)  # the others cannot go on without it
    epoch, steps = json.loads((tmp_path / "kept.json").read_text())
    assert epoch == 0
    before = [
        row
        for rank in range(3)
        for _, rows in seen_in(tmp_path, "first", rank)[:steps]
        for row in rows
    ]
    assert train("second", 2, (kind, 2, -1, tmp_path, *files)) == [0, 0]
    after = [seen_in(tmp_path, "second", rank) for rank in range(2)]
    assert len(after[0]) == len(after[1])  # equal steps
    rest = [row for part in after for epoch, rows in part for row in rows if epoch == 0]
    following = [row for part in after for epoch, rows in part for row in rows if epoch == 1]
    assert len(set(before + rest)) == len(before + rest) >= ROWS - 1
    assert len(set(following)) == len(following) >= ROWS - 1
