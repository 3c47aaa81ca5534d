"""What this program is called by who runs it."""

from __future__ import annotations

import os
import sys


def program_name() -> str:
    """What the user types before a command: `halo` where it is installed, `python cli.py` in a clone."""
    return "halo" if os.path.basename(sys.argv[0]) == "halo" else "python cli.py"
