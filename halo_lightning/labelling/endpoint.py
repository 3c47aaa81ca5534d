"""Scores by an HTTP endpoint that takes JSON and gives JSON."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.judges.http import Endpoint, GaveUpError, Refused, Retries
from halo_lightning.labelling.items import Item
from halo_lightning.labelling.scorers import Keep, Scored, Scorer, scored

FAILURES = 20
"""So many completions in a row that could not be scored are taken for an endpoint that does not work."""


class EndpointScorer(Scorer):
    """POSTs `{"prompt": …, "completion": …}` and gets a number, or an object with one in it.

    The key is sent as `Authorization: Bearer …` and written nowhere.

    Args:
        address: Where to.
        score_key: Where the score is in the answer; a dot leads into an object or, with a number, into a list.
        key_variable: The environment variable with the key; where it is not set, requests are sent without one.
        retries: How patient requests are.
        concurrency: Most requests at one time.
    """

    def __init__(self, address: str, score_key: str, key_variable: str, retries: Retries, concurrency: int) -> None:
        parts = urlsplit(address)
        if not parts.hostname:
            raise ConfigError("scorer: found an address without a host, expected one such as https://host/score")
        if parts.username or parts.password or parts.query:
            raise ConfigError(
                "scorer: found a user, a password or a query in the address, which would be written to files; expected"
                f" the address alone, and the key in the environment variable {key_variable}"
            )
        retries.check()
        self.address, self.score_key, self.key_variable = address, score_key, key_variable
        self.retries, self.concurrency = retries, concurrency
        key = os.environ.get(key_variable, "")
        if key and key in json.dumps(self.settings):
            raise ConfigError(f"the key itself is in the scorer's settings: expected it in {key_variable} alone")

    @property
    def settings(self) -> dict[str, Any]:
        """The address, and where the score is; not the key."""
        return {"scorer": "endpoint", "address": self.address, "score_key": self.score_key}

    def score(self, items: Iterable[Item], keep: Keep) -> None:
        """See `Scorer`."""
        asyncio.run(self._score(items, keep))

    async def _score(self, items: Iterable[Item], keep: Keep) -> None:
        waiting, in_a_row, last = iter(items), 0, ""
        refused: list[str] = []

        async def work(endpoint: Endpoint) -> None:
            nonlocal in_a_row, last
            while not refused and in_a_row < FAILURES:
                item = next(waiting, None)
                if item is None:
                    return
                try:
                    answer = await endpoint.ask({"prompt": item.written, "completion": item.completion})
                except GaveUpError as error:
                    in_a_row, last = in_a_row + 1, str(error)
                    if in_a_row < FAILURES:
                        keep([Scored(item, None, f"the endpoint gave no score: {last}")])
                except Refused as error:
                    refused.append(str(error))
                else:
                    in_a_row = 0
                    keep([scored(item, answer)])

        key = os.environ.get(self.key_variable) or None
        what = f"number under {self.score_key!r}"
        made = Endpoint(self.address, key, self.retries, self.concurrency, read=self.read, what=what, who="scorer")
        async with made as endpoint:
            await asyncio.gather(*(work(endpoint) for _ in range(self.concurrency)))
        if refused:
            raise ConfigError(f"{refused[0]} (key in {self.key_variable}: {'set' if key else 'not set'})")
        if in_a_row >= FAILURES:
            raise ConfigError(
                f"the scorer at {self.address} gave no score {FAILURES} times in a row (the last time: {last}); what"
                " was scored is kept, and the same command goes on"
            )

    def read(self, body: bytes) -> float | None:
        """The score in an answer; None where there is none."""
        try:
            value = json.loads(body)
            for part in self.score_key.split(".") if isinstance(value, (dict, list)) else []:
                value = value[int(part)] if isinstance(value, list) else value[part]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return scored(None, value).score  # type: ignore[arg-type]
