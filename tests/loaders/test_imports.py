"""The loaders come light and alone: no framework before it is needed, and nothing of a harness."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import feedrate.loaders
import pytest

HEAVY = {"torch", "tensorflow", "polars", "scipy", "rich", "typer", "psutil"}
FOLDERS = ("loaders", "harness", "reports")


def modules_after(*steps):
    """The modules that are there after each step, in a fresh process."""
    tell = "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    code = "\n".join(["import json, sys", *(line for step in steps for line in (step, tell))])
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return [set(json.loads(line)) for line in ran.stdout.splitlines()]


def test_importing_the_loaders_is_light():
    first, second = modules_after(
        "import feedrate.loaders",
        "from feedrate.loaders import LoaderSettings, Profile; LoaderSettings()",
    )
    assert not first & (HEAVY | {"pandas", "pyarrow", "numpy"})
    assert not second & (HEAVY | {"pandas"})


def test_a_loader_imports_no_framework_before_it_works_and_none_that_it_does_not_need(storage):
    files = [str(path) for path in storage.files("box_scores")]
    make = f"OptimizedHistoricalDataLoader(ParquetStorage({str(storage.base_dir)!r}), "
    steps = modules_after(
        "from feedrate.loaders import HistoricalDataLoader, ParquetStorage, "
        "OptimizedHistoricalDataLoader",
        "from feedrate.loaders import PyTorchDataLoader, TensorFlowDataLoader",
        f"loader = {make}); loader.explain(); loader.settings_for('batches')",
        f"loader = {make}); loader.load_files({files})",
        f"loader = {make}'original'); loader.load_files({files})",
        f"loader = {make}'original', profile=None); loader.load_slate_data('20250101')",
        "from feedrate.loaders.choosing.registry import find_backend\n"
        f"if find_backend('pytorch').installed: {make}'pytorch').load_files({files})",
    )
    assert not any(modules & HEAVY for modules in steps)


def test_no_module_goes_by_a_name_that_is_not_ours():
    assert not {name for name in FOLDERS if name in sys.modules}
    (modules,) = modules_after(
        "from feedrate.loaders import optimized_historical_loader\n"
        "from feedrate.loaders.training import original_training\n"
        "from feedrate.loaders.caching import disk, memory"
    )
    assert not modules & set(FOLDERS)
    assert "feedrate" in modules


def test_every_public_name_is_there():
    for name in feedrate.loaders.__all__:
        if name in ("ParquetDataset", "StreamingParquetDataset"):
            continue  # subclasses of torch's
        assert getattr(feedrate.loaders, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'PandasStorage'"):
        feedrate.loaders.PandasStorage  # noqa: B018 - looking it up is what fails


def sources(folder):
    """The installed modules of a package."""
    (found,) = importlib.util.find_spec(f"feedrate.{folder}").submodule_search_locations
    return sorted(Path(found).rglob("*.py"))


def imports(path, folder):
    """Each import of a module: the absolute name, and whether it waits for a function to run."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING")
        for node in ast.walk(block)
    }
    package = ["feedrate", folder, *path.parts[path.parts.index(folder) + 1 : -1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *([node.module] if node.module else [])]
            names = [".".join([*module, alias.name]) for alias in node.names]
        else:
            continue
        for name in names:
            yield name, id(node) in inside


def relative(path, folder):
    """A module's file in its package, such as `frames/reader.py`."""
    return "/".join(path.parts[path.parts.index(folder) + 1 :])


def test_the_sources_are_found():
    found = {relative(path, "loaders") for path in sources("loaders")}
    assert {"storage.py", "parquet/original.py"} <= found


def test_loaders_need_only_the_base_packages_and_frameworks_where_they_are_the_point():
    base = {"numpy", "pandas", "pyarrow", "polars", "msgspec", "platformdirs", "feedrate"}
    base |= {"xxhash"}
    for path in sources("loaders"):
        for name, inside in imports(path, "loaders"):
            top = name.split(".")[0]
            framework = {
                "torch": "pytorch/",
                "tensorflow": "tensorflow/",
                "ray": "ray_data/",
                **dict.fromkeys(
                    ("obstore", "boto3", "fsspec", "deltalake", "pyiceberg", "yaml"), "remote/"
                ),
            }.get(top)
            if top in sys.stdlib_module_names or top in base:
                assert inside or top != "polars", f"{path} imports polars before it is needed"
                continue
            assert framework is not None, f"{path} imports {name}"
            at_home = relative(path, "loaders").startswith(framework)
            assert inside or (at_home and framework != "remote/"), f"{path} imports {name}"
