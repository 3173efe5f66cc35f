"""What the server that worker processes are forked from imports: import it in no other process.

A collection of garbage writes to every object that it looks through, and so copies the pages of
all modules into each worker: 48 MiB of torch's and pandas's. `gc.freeze` spares them from it.
"""

import gc

from . import workers  # noqa: F401 - imported for all that are forked

gc.collect()
gc.freeze()
