"""Who imports whom: the contracts of pyproject.toml hold, and CONTRIBUTING shows them."""

import subprocess
import sys

from . import rooms

LINT = (
    "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
)


def test_the_contracts_on_imports_hold():
    ran = subprocess.run(
        [sys.executable, "-c", LINT], cwd=rooms.ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_contributing_shows_the_rooms_as_they_are():
    text = rooms.CONTRIBUTING.read_text(encoding="utf-8")
    assert rooms.BEGIN in text
    assert rooms.with_table(text) == text, "run python -m tests.rooms"


def test_every_module_is_in_a_room():
    doors = {"feedrate.harness", "feedrate.loaders"}
    known = [*rooms.layers(), *doors]
    graph = rooms.grimp.build_graph(*rooms.PACKAGES)
    lost = {
        module
        for module in graph.modules
        if module not in known and not any(module.startswith(f"{room}.") for room in rooms.layers())
    }
    assert lost == set()
