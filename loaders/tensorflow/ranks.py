"""The rank of this process in a TensorFlow cluster."""

from __future__ import annotations

from dataclasses import replace

from ..base.errors import InputError
from ..training.epochs import ServiceShard, Shard


def chosen_shard(rank: int | None, world_size: int | None, shard: ServiceShard | None) -> Shard:
    """The share for a user's arguments: as `Shard.chosen`, or all rows for a tf.data service.

    Raises:
        InputError: as `Shard.chosen`.
    """
    if shard == "service":
        return replace(Shard.of(rank, world_size), by_service=True)
    if shard not in ("auto", None):
        raise InputError(f"shard is {shard!r}; it must be 'auto', 'service' or None")
    return Shard.chosen(rank, world_size, shard, cluster_shard)


def cluster_shard() -> Shard:
    """This process's share among the workers that train together; all rows if it is alone.

    The cluster comes from the current `tf.distribute` strategy, else from TF_CONFIG. Each of its
    workers runs one input pipeline, however many devices it feeds: a strategy splits the rows
    that a worker reads among its devices. An evaluator gets all rows.

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
    this = (resolver.task_type, resolver.task_id)
    return Shard(workers.index(this), len(workers)) if this in workers else Shard()
