"""A judge behind an OpenAI-compatible endpoint: a hosted model, or one that a server on this machine runs."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.judges.base import Comparison, Judge, Keep, Verdict
from halo_lightning.evaluation.judges.http import Endpoint, GaveUpError, Refused, Retries
from halo_lightning.evaluation.judges.wording import LONGEST, QUESTION, parse, question

OPTIONS = {"temperature": 0, "max_tokens": 200}

MOST_TOKENS = 10**9
"""A server that counts more than this for one request does not count."""


@dataclass
class Spent:
    """What was spent: requests that were sent, tokens and their price."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ApiJudge(Judge):
    """Any OpenAI-compatible endpoint for chat completions. The key is read from the environment and never written.

    Args:
        model: The name of the model there.
        base_url: Where the endpoint is, without `/chat/completions`, such as `http://localhost:8000/v1`.
        key_variable: The environment variable with the key; where it is not set, requests are sent without one.
        options: Further fields of every request, instead of `{"temperature": 0, "max_tokens": 200}`.
        concurrency: Most requests at one time.
        timeout: Seconds after which an answer that is not whole is given up.
        attempts: How often one request is tried before its comparison is left for the next time.
        backoff: Seconds before the second attempt; doubled with every further one, and half of it drawn at random.
        longest_wait: Most seconds between attempts. Where the server says when to come back, that is what counts, but
            if it is later than this the command stops.
        failures: Stops when so many comparisons in a row have failed in all their attempts.
        price: Dollars for a million tokens of the requests and of the answers, to show what was spent.
    """

    def __init__(
        self,
        model: str,
        base_url: str = "https://api.openai.com/v1",
        key_variable: str = "OPENAI_API_KEY",
        options: dict[str, Any] | None = None,
        concurrency: int = 8,
        timeout: float = 60.0,
        attempts: int = 6,
        backoff: float = 1.0,
        longest_wait: float = 300.0,
        failures: int = 10,
        price: tuple[float, float] | None = None,
    ) -> None:
        self.model, self.base_url, self.key_variable = model, base_url.rstrip("/"), key_variable
        self.options = OPTIONS if options is None else options
        self.concurrency, self.failures, self.price = concurrency, failures, price
        self.retries = Retries(timeout, attempts, backoff, longest_wait)
        self.spent = Spent()

    def check(self) -> None:
        """Refuses settings that cannot work, or that would write a secret down.

        Raises:
            ConfigError: There are such settings.
        """
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("base_url: expected an address that starts with http:// or https://")
        if parts.username or parts.password or parts.query:
            raise ConfigError(
                "base_url: found a user, a password or a query in it, which would be written to files; expected the"
                f" address alone, and the key in the environment variable {self.key_variable}"
            )
        for name in ("concurrency", "failures"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected 1 or more")
        self.retries.check()
        key = os.environ.get(self.key_variable, "")
        if key and key in json.dumps(self.settings, ensure_ascii=False):
            raise ConfigError(f"the key itself is in the judge's settings: expected it in {self.key_variable} alone")

    @property
    def settings(self) -> dict[str, Any]:
        """The endpoint, the model and what it is asked; not how fast, and not the key."""
        return {
            "judge": "ApiJudge",
            "base_url": self.base_url,
            "model": self.model,
            "options": self.options,
            "question": QUESTION,
        }

    def judge(self, comparisons: Sequence[Comparison], keep: Keep) -> str | None:
        """Asks about several comparisons at a time, and keeps each verdict when it arrives.

        Raises:
            ConfigError: The settings cannot work, or the server refuses all requests like these.
        """
        self.check()
        return asyncio.run(self._judge(comparisons, keep))

    async def _judge(self, comparisons: Sequence[Comparison], keep: Keep) -> str | None:
        waiting = list(reversed(comparisons))
        failed: list[str] = []
        refused: list[str] = []
        in_a_row = 0
        address = f"{self.base_url}/chat/completions"
        key = os.environ.get(self.key_variable) or None

        async def work(endpoint: Endpoint) -> None:
            nonlocal in_a_row
            while waiting and not refused and in_a_row < self.failures:
                comparison = waiting.pop()
                try:
                    answer = await endpoint.ask(self._request(comparison))
                except GaveUpError as error:
                    failed.append(str(error))
                    in_a_row += 1
                except Refused as error:  # what others are waiting for is paid for, and is still kept
                    refused.append(str(error))
                else:
                    in_a_row = 0
                    keep(comparison, self._verdict(answer, endpoint))

        async with Endpoint(address, key, self.retries, self.concurrency) as endpoint:
            try:
                await asyncio.gather(*(work(endpoint) for _ in range(min(self.concurrency, len(comparisons)))))
            finally:
                self.spent.requests += endpoint.requests
        if refused:
            raise ConfigError(f"{refused[0]} (key in {self.key_variable}: {'set' if key else 'not set'})")
        if not failed:
            return None
        left = len(failed) + len(waiting)
        return (
            f"{left} comparisons have no verdict (the last error: {failed[-1]}); the same command asks for them again"
        )

    def _request(self, comparison: Comparison) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": question(comparison)}],
            **self.options,
        }

    def _verdict(self, answer: dict[str, Any], endpoint: Endpoint) -> Verdict:
        choice = answer["choices"][0]
        content = _text(choice["message"].get("content"))
        reply = None if content is None else endpoint.without_key(content)
        usage: Any = answer.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        details: dict[str, Any] = {
            "reply": None if reply is None else reply[-LONGEST:],
            "finish_reason": endpoint.without_key(str(choice.get("finish_reason"))),
        }
        for name in ("prompt_tokens", "completion_tokens"):
            count = usage.get(name)
            if type(count) is int and 0 <= count <= MOST_TOKENS:
                details[name] = count
                setattr(self.spent, name, getattr(self.spent, name) + count)
        return Verdict(parse(reply), details)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Dollars; None where no price was given."""
        if self.price is None:
            return None
        return (prompt_tokens * self.price[0] + completion_tokens * self.price[1]) / 1e6


def _text(content: Any) -> str | None:
    """What a message says: a text, or the texts in a list of parts; None where it says nothing."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(map(str, texts)) if texts and all(isinstance(text, str) for text in texts) else None
    return content if isinstance(content, str) else None
