"""`python -m meld` is the same program as `meld`."""

from __future__ import annotations

from meld.cli.main import main

if __name__ == "__main__":
    main()
