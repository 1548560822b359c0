"""`python -m dlrun`, and what torchrun starts."""

import sys
from pathlib import Path

import dlrun

if __name__ == "__main__":
    # Python puts the working folder first where modules are looked for: as with `dlrun`, none of it is run unasked
    if not Path(dlrun.__file__).is_relative_to(Path.cwd()):
        sys.path[:] = [place for place in sys.path if place not in ("", str(Path.cwd()))]
    from dlrun.cli import entry

    entry()
