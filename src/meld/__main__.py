"""`python -m meld` is the same program as `meld`."""

from __future__ import annotations

import sys

from meld.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
