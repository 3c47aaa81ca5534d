"""Sources of feedback: from files, saved data sets, the hub or the embedded world, to a stream of rows.

- `config`: `Source`, how one source is described in a configuration.
- `opening`: `read_rows`, from a source to its rows, by `files`, `content`, `text`, `tables` and `embedded`.
- `columns`: the user's columns under the keys that this package knows, and labels as booleans.
- `shp`, `oasst`, `rated`: published formats, turned into rows with those keys.
- `bad_rows`: what happens to a row that cannot be used.

Names are loaded when they are used, so that a command can take a `Source` and still show its help quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halo_lightning.data.sources.bad_rows import BadRows as BadRows
    from halo_lightning.data.sources.config import OASST as OASST
    from halo_lightning.data.sources.config import SHP as SHP
    from halo_lightning.data.sources.config import Label as Label
    from halo_lightning.data.sources.config import Rated as Rated
    from halo_lightning.data.sources.config import Source as Source
    from halo_lightning.data.sources.embedded import EMBEDDED as EMBEDDED
    from halo_lightning.data.sources.opening import read_rows as read_rows
    from halo_lightning.data.sources.rows import Row as Row
    from halo_lightning.data.sources.rows import UnusableRowError as UnusableRowError
    from halo_lightning.data.sources.rows import describe as describe

_HOMES = {
    "BadRows": "bad_rows",
    "OASST": "config",
    "SHP": "config",
    "Label": "config",
    "Rated": "config",
    "Source": "config",
    "EMBEDDED": "embedded",
    "read_rows": "opening",
    "Row": "rows",
    "UnusableRowError": "rows",
    "describe": "rows",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
