"""The fingerprint of the rows that the original delivers, without the code under test."""

from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd

from ..loaders.errors import ColumnError
from ..loaders.original import read_file, read_frame
from ..loaders.profile import Job
from .fingerprint import BatchFingerprint, Fingerprint, frame_fingerprint
from .sampling import picked
from .work import Data


def sample_of(data: Data, files: int, every: int) -> Data:
    """The data of the first `files` files, or of a sample of them alone, as `picked` takes it."""
    return msgspec.structs.replace(data, paths=[data.paths[one] for one in picked(files, every)])


def reference(job: Job, files: int, data: Data, *, ordered: bool) -> Fingerprint:
    """The fingerprint of what the original delivers, by pandas alone."""
    paths = data.paths[:files]
    if job == "frame":
        return frame_fingerprint(read_frame(paths, data.columns))
    names = data.training.names
    result = BatchFingerprint(ordered=ordered)
    frames = (
        [read_frame(paths, names)]
        if job == "batches"
        else (read_file(path, names) for path in paths)
    )
    for frame in frames:
        result.update(_plain_matrix(frame, data))
    return result.result()


def _plain_matrix(frame: pd.DataFrame, data: Data) -> np.ndarray:
    """Features and target as float32 by pandas, without the code under test."""
    wanted = [*data.features, *([data.target] if data.target is not None else [])]
    frame = frame.reindex(columns=wanted)
    matrix = np.empty((len(frame), len(wanted)), dtype=np.float32)
    for position, name in enumerate(wanted):
        column = frame[name]
        try:
            if column.dtype == object:  # booleans or decimals with nulls among them
                column = column.map(float, na_action="ignore")
            matrix[:, position] = column.astype("float32").fillna(data.null_value)
        except (ValueError, TypeError) as error:
            raise ColumnError(
                f"column {name!r} holds values that are not numbers ({error}); leave it out with "
                "--columns, or mend the files"
            ) from error
    return matrix
