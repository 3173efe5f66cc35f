"""One budget for the thread pools of a process, and the observed numbers of threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

# Each is read when its library is first imported. OMP_NUM_THREADS applies to torch, to libraries
# built with OpenMP, and to Arrow's CPU pool (Arrow's documentation of GetCpuThreadPoolCapacity).
POOL_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "ARROW_IO_THREADS",
)


def budget(cpus: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that keep each pool within the CPUs that may be used.

    Variables that the user has set stay. If the process may use all CPUs that libraries count,
    nothing is set, so that a trial runs like the same code elsewhere.

    Args:
        cpus: CPUs that may be used.
        environment: the variables that are already set.
    """
    if cpus >= (os.cpu_count() or 1):
        return {}
    return {name: str(cpus) for name in POOL_VARIABLES if name not in environment}


def requested(environment: Mapping[str, str]) -> dict[str, int]:
    """The requested pool sizes, by variable.

    >>> requested({"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "many", "PATH": "/bin"})
    {'OMP_NUM_THREADS': 2}
    """
    values = {name: environment.get(name, "") for name in POOL_VARIABLES}
    return {name: int(value) for name, value in values.items() if value.isdigit()}


def observed() -> dict[str, int]:
    """Threads of this process, and pool sizes of the imported libraries; imports none itself."""
    counts = {"process": thread_count()}
    arrow = sys.modules.get("pyarrow")
    if arrow is not None:
        counts |= {"arrow_cpu": arrow.cpu_count(), "arrow_io": arrow.io_thread_count()}
    polars = sys.modules.get("polars")
    if polars is not None:
        counts["polars"] = polars.thread_pool_size()
    torch = sys.modules.get("torch")
    if torch is not None:
        counts["torch"] = torch.get_num_threads()
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None:  # 0 means that TensorFlow chooses
        threading = tensorflow.config.threading
        counts["tensorflow_intra_op"] = threading.get_intra_op_parallelism_threads()
        counts["tensorflow_inter_op"] = threading.get_inter_op_parallelism_threads()
    return counts


def thread_count() -> int:
    """Threads of this process; 0 if the system does not report them."""
    try:
        return len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        return 0
