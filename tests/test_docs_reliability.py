"""Every test that docs/reliability.md names exists."""

from __future__ import annotations

import re

from tests.conftest import REPOSITORY


def test_every_test_that_is_named_exists() -> None:
    file, count = "", 0
    for name in re.findall(
        r"`((?:tests/[\w/]+\.py)?(?:::test_\w+)?)`", (REPOSITORY / "docs" / "reliability.md").read_text()
    ):
        path, _, test = name.partition("::")
        file = path or file
        if not file:
            continue
        content = (REPOSITORY / file).read_text()
        assert not test or f"def {test}(" in content, name
        count += 1
    assert count > 15
