"""A bound of the memory that a piece of work may take."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_one_at_a_time = threading.RLock()


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """Within, this process gets so many bytes of addresses beyond those that it has, and then no memory.

    The limit is the operating system's, so it holds for libraries, whatever they believe of what they read. Where there
    is no `/proc` (it is Linux's) there is none.

    Args:
        more: How many bytes.

    Raises:
        MemoryError: It was not enough.
    """
    pages = Path("/proc/self/statm")
    if not pages.exists():
        yield
        return
    with _one_at_a_time:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        bound = int(pages.read_text().split()[0]) * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (bound if soft == resource.RLIM_INFINITY else min(soft, bound), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
