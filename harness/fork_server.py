"""`python -m feedrate.harness.fork_server`: a process that such processes are forked from."""

from .trial.fork_server import main

if __name__ == "__main__":
    main()
