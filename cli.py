"""The command line: `python cli.py fit --config configs/tiny_sft_kto.yaml`; an installed `halo` is the same."""

import sys

from halo_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
