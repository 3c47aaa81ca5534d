"""Sources of feedback: from files, saved data sets, the hub or the embedded world, to a stream of rows.

- `config`: `Source`, how one source is described in a configuration.
- `opening`: `read_rows`, from a source to its rows, by `files`, `content`, `text`, `tables` and `embedded`.
- `columns`: the user's columns under the keys that this package knows, and labels as booleans.
- `shp`, `oasst`, `rated`: published formats, turned into rows with those keys.
- `bad_rows`: what happens to a row that cannot be used.
"""

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
