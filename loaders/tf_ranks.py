"""Which rank's share of the rows a tf.data dataset has."""

from __future__ import annotations

from typing import Literal

from .epochs import Shard
from .errors import InputError
from .settings import LoaderSettings

AutoShard = Literal["auto"]


def choose_shard(rank: int | None, world_size: int | None, shard: AutoShard | None) -> Shard:
    """The share as users ask for it; all rows if they do not.

    Args:
        rank: number of the rank, from 0.
        world_size: how many ranks there are.
        shard: `auto` takes both from tf.distribute, as `cluster_shard` says.

    Raises:
        InputError: only one of rank and world_size is given, or one beside `auto`; the rank is
            not below the world size.
    """
    if shard is None:
        return Shard.of(rank, world_size)
    if shard != "auto":
        raise InputError(f"shard is {shard!r}; it must be 'auto' or None")
    if rank is not None or world_size is not None:
        raise InputError("shard='auto' finds rank and world_size; leave them out")
    return cluster_shard()


def check_share(shard: Shard, rows: int, settings: LoaderSettings) -> None:
    """Raise `InputError` where there are rows, and a share of them makes no batch."""
    share = shard.rows(rows)
    if shard.world_size > 1 and not share:
        raise InputError(
            f"world_size is {shard.world_size} and there are {rows} rows, so that ranks would "
            "have none; use fewer ranks"
        )
    if settings.drop_last and 0 < share < settings.batch_size:
        raise InputError(
            f"batch_size is {settings.batch_size} and there are {share} rows, so that drop_last "
            "leaves no batch; lower batch_size or set drop_last=False"
        )


def cluster_shard() -> Shard:
    """This process's place among the workers that train together; all rows if it is alone.

    The cluster is that of the current `tf.distribute` strategy, else of TF_CONFIG. Each of its
    workers runs one input pipeline, whatever number of devices it feeds: a strategy splits what
    a worker reads among its devices. An evaluator gets all rows.

    Raises:
        InputError: there are parameter servers, whose workers do not run this program.
    """
    import tensorflow as tf

    resolver = tf.distribute.get_strategy().cluster_resolver
    if resolver is None:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    jobs = resolver.cluster_spec().as_dict()
    if "ps" in jobs:
        raise InputError(
            "shard='auto' is for workers that each run this program, and this cluster has "
            "parameter servers; make the dataset in a function of an InputContext, with "
            "rank=context.input_pipeline_id and world_size=context.num_input_pipelines"
        )
    # The order in which TensorFlow numbers its workers: the chief, then the others.
    workers = [(job, task) for job in ("chief", "worker") for task in range(len(jobs.get(job, [])))]
    here = (resolver.task_type, resolver.task_id)
    return Shard(workers.index(here), len(workers)) if here in workers else Shard()
