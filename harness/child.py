"""`python -m feedrate.harness.child`: what runs one trial, in a gate of any revision."""

from .trial.child import main

if __name__ == "__main__":
    main()
