"""`python -m feedrate.harness.fork_server`: the process that trials are forked from."""

from .trial.fork_server import main

if __name__ == "__main__":
    main()
