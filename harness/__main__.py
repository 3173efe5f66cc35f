"""The command line's entry: `feedrate` and `python -m feedrate.harness`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; on a base install say which extra it needs."""
    try:
        from .cli import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("feedrate"):
            raise
        sys.stderr.write(
            f"feedrate: the command line needs {error.name}, which is not installed; "
            'install it with: pip install "feedrate[harness]"\n'
        )
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
