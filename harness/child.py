"""`python -m feedrate.harness.child` runs one trial; a gate starts it in any revision."""

from .trial.child import main

if __name__ == "__main__":
    main()
