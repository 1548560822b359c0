"""`python -m dlrun`, and what torchrun starts."""

import os
import sys

import dlrun

if __name__ == "__main__":
    # Python puts the working folder first where modules are looked for: as with `dlrun`, none of it
    # is run unasked. Nothing but what Python itself has loaded may be imported before this; what it
    # looks for there even earlier, such as `collections`, only `python -P -m dlrun` keeps out.
    here = os.getcwd()
    if not os.path.abspath(dlrun.__file__).startswith(here.rstrip(os.sep) + os.sep):
        sys.path[:] = [place for place in sys.path if place not in ("", here)]
    from dlrun.cli.main import entry

    entry()
