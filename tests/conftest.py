"""One thread a test run: small steps gain nothing from more, and wait for each other where the machine is shared."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
