"""The table of rooms and their imports in CONTRIBUTING.md, from the code.

`python -m tests.rooms` writes it anew; `test_rooms.py` compares it.
"""

import importlib
import re
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- rooms: made by `python -m tests.rooms` -->", "<!-- /rooms -->"
PACKAGES = ("feedrate.harness", "feedrate.reports", "feedrate.loaders")


def layers():
    """The contract's layers, the highest first, siblings of one layer one by one."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    (layered,) = (one for one in contracts if one["type"] == "layers")
    return [name for layer in layered["layers"] for name in re.split(r"\s*\|\s*", layer)]


def table():
    """A row for each room: what it is for, and which rooms it imports."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True)
    order = layers()

    def room_of(module):
        return next((room for room in order if f"{module}.".startswith(f"{room}.")), None)

    imported = {room: set() for room in order}
    for module in graph.modules:
        room = room_of(module)
        if room is None:
            continue
        for other in graph.find_modules_directly_imported_by(module):
            target = room_of(other)
            if target not in (None, room):
                imported[room].add(target)
    lines = ["| room | for | imports |", "| --- | --- | --- |"]
    for room in order:
        spec = importlib.util.find_spec(room)
        if spec.submodule_search_locations is None:
            continue  # a single file
        names = ", ".join(f"`{short(one)}`" for one in order if one in imported[room])
        lines.append(f"| `{short(room)}` | {purpose(spec.origin)} | {names or 'nothing'} |")
    return "\n".join(lines)


def short(room):
    """A room's name as its folder is called."""
    return room.removeprefix("feedrate.").replace(".", "/")


def purpose(init):
    """The first line of a package's docstring."""
    text = Path(init).read_text(encoding="utf-8")
    return text.split('"""')[1].partition("\n")[0].rstrip(".")


def with_table(text):
    """The text of CONTRIBUTING with the table of today."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    CONTRIBUTING.write_text(with_table(CONTRIBUTING.read_text(encoding="utf-8")), encoding="utf-8")
