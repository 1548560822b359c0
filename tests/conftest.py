"""One thread a test run: small steps gain nothing from more, and wait for each other where the machine is shared.
And a cache of its own: no test reads or writes the user's."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XDG_CACHE_HOME"] = cache = tempfile.mkdtemp(prefix="dlrun-tests-")
atexit.register(shutil.rmtree, cache, ignore_errors=True)
