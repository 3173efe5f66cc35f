"""Production loaders for Parquet: original, TensorFlow, PyTorch, and the tuned loader."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base.errors import (
        ColumnError,
        DocumentError,
        FeedrateError,
        FeedrateWarning,
        InputError,
        MissingBackendError,
        ParquetFileError,
        SchemaError,
        StorageError,
    )
    from .base.settings import LoaderSettings
    from .choosing.profile import Profile
    from .historical_loader import HistoricalDataLoader
    from .optimized_historical_loader import OptimizedHistoricalDataLoader
    from .pytorch.datasets import ParquetDataset, StreamingParquetDataset
    from .pytorch_loader import PyTorchDataLoader
    from .remote.hugging_face import split_files
    from .remote.requests import ChangedError
    from .remote.tables import TableFiles, table_files
    from .storage import ParquetStorage
    from .tensorflow_loader import TensorFlowDataLoader

__version__ = "0.1.0"

__all__ = [
    "ChangedError",
    "ColumnError",
    "DocumentError",
    "FeedrateError",
    "FeedrateWarning",
    "HistoricalDataLoader",
    "InputError",
    "LoaderSettings",
    "MissingBackendError",
    "OptimizedHistoricalDataLoader",
    "ParquetDataset",
    "ParquetFileError",
    "ParquetStorage",
    "Profile",
    "PyTorchDataLoader",
    "SchemaError",
    "StorageError",
    "StreamingParquetDataset",
    "TableFiles",
    "TensorFlowDataLoader",
    "__version__",
    "split_files",
    "table_files",
]

# Imported on first use: the datasets are subclasses of torch's, and a child process that only
# needs the settings need not pay for pandas.
_MODULES = {
    **dict.fromkeys(
        (
            "ColumnError",
            "DocumentError",
            "FeedrateError",
            "FeedrateWarning",
            "InputError",
            "MissingBackendError",
            "ParquetFileError",
            "SchemaError",
            "StorageError",
        ),
        "base.errors",
    ),
    "ChangedError": "remote.requests",
    "HistoricalDataLoader": "historical_loader",
    "LoaderSettings": "base.settings",
    "OptimizedHistoricalDataLoader": "optimized_historical_loader",
    "ParquetDataset": "pytorch_loader",
    "ParquetStorage": "storage",
    "Profile": "choosing.profile",
    "PyTorchDataLoader": "pytorch_loader",
    "StreamingParquetDataset": "pytorch_loader",
    "TableFiles": "remote.tables",
    "TensorFlowDataLoader": "tensorflow_loader",
    "split_files": "remote.hugging_face",
    "table_files": "remote.tables",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
