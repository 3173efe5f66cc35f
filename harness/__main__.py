"""The entry point of the command line: `feedrate` and `python -m feedrate.harness`."""

from __future__ import annotations

import sys

from .system.stopping import end_at_once, handle


def main() -> None:
    """Run the command line; on a base install, name the extra that it needs."""
    handle(end_at_once)  # imports take most of a second: Ctrl-C then must not print a traceback
    try:
        from .cli.app import run
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
