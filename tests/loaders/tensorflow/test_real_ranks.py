"""Two real processes of a MultiWorkerMirroredStrategy: every row once, in equally many steps."""

import json
import os
import socket
import subprocess
import sys

import pandas as pd
import pytest

pytest.importorskip("tensorflow")
pytestmark = pytest.mark.slow

PATIENCE_S = 120
ROWS, FILES = 260, 5
TRAINER = """
import json, os, sys
from pathlib import Path
import pandas as pd
import tensorflow as tf
from feedrate.loaders import TensorFlowDataLoader

files = sys.argv[1:]
strategy = tf.distribute.MultiWorkerMirroredStrategy()
loader = TensorFlowDataLoader(num_parallel_reads=1)
options = {"batch_size": 8, "seed": 3, "shard": "auto"}
frame = pd.concat(map(pd.read_parquet, files), ignore_index=True)
jobs = (
    loader.create_streaming_dataset(files, ["row"], **options),
    loader.create_cached_dataset(frame, ["row"], **options),
)

@tf.function
def step(x):
    def replica(x):  # waits for the other worker
        ones = tf.reduce_sum(tf.ones_like(x))
        return tf.distribute.get_replica_context().all_reduce("sum", ones)
    return strategy.run(replica, args=(x,))

epochs = []
for rows in (jobs[0], jobs[0], jobs[1], jobs[1]):
    steps = []
    for x in strategy.experimental_distribute_dataset(rows):
        step(x)
        local = strategy.experimental_local_results(x)
        steps.append([row for part in local for row in part.numpy().flatten().tolist()])
    epochs.append(steps)
print(json.dumps(epochs), flush=True)
os._exit(0)  # without waiting for the other worker's servers
"""


def test_each_row_comes_once_an_epoch_in_equal_steps(tmp_path):
    files = []
    for number in range(FILES):
        rows = range(number * ROWS // FILES, (number + 1) * ROWS // FILES)
        files.append(str(tmp_path / f"{number}.parquet"))
        pd.DataFrame({"row": rows}).to_parquet(files[-1])
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        places = [f"127.0.0.1:{server.getsockname()[1]}" for server in (one, other)]
    workers = []
    for index in range(2):
        task = {"cluster": {"worker": places}, "task": {"type": "worker", "index": index}}
        workers.append(
            subprocess.Popen(
                [sys.executable, "-c", TRAINER, *files],
                env={**os.environ, "TF_CONFIG": json.dumps(task)},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        )
    try:
        first, second = (json.loads(one.communicate(timeout=PATIENCE_S)[0]) for one in workers)
    finally:
        for one in workers:
            one.kill()
            one.wait()
    for epoch in range(4):
        assert len(first[epoch]) == len(second[epoch])
        seen = [row for steps in (first[epoch], second[epoch]) for step in steps for row in step]
        assert sorted(seen) == list(range(ROWS))
    assert first[0] != first[1]
    assert first[2] != first[3]
