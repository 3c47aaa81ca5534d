"""Requests to an endpoint that may be slow, busy, broken, or all of it: retried with care, and never for ever."""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from halo_lightning.errors import ConfigError

MOST_BYTES = 4 * 2**20
"""An answer that is longer is none."""

AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
"""Statuses of errors that may pass."""

BUSY = 10
"""How many times more often than failures it is borne that a server has too many requests."""

FOR_THIS_ONE = {400, 413, 422}
"""Statuses that say something of one request (too long, refused by a filter) and not of all of them."""


class GaveUpError(Exception):
    """One request had no answer that can be used."""


class Refused(Exception):  # noqa: N818  # not an error of ours: what the server said
    """The server will refuse every such request."""


@dataclass(frozen=True)
class Retries:
    """How patient requests are; all times in seconds.

    Attributes:
        timeout: After which an attempt is given up.
        attempts: Most attempts of one request.
        backoff: Before the second attempt; doubled with every further one.
        longest_wait: Most that is waited between two attempts.
    """

    timeout: float = 60.0
    attempts: int = 6
    backoff: float = 1.0
    longest_wait: float = 300.0

    def check(self) -> None:
        """Refuses numbers that cannot work.

        Raises:
            ConfigError: There are such numbers.
        """
        for name, low in (("timeout", 1e-3), ("attempts", 1), ("backoff", 0), ("longest_wait", 0)):
            if not getattr(self, name) >= low:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected {low} or more")

    def wait(self, attempt: int, dice: random.Random) -> float:
        """How long to wait after an attempt (counted from 1) that failed: exponential, half of it at random."""
        whole = min(self.backoff * 2.0 ** (attempt - 1), self.longest_wait)
        return whole * (0.5 + dice.random() / 2)


class Endpoint:
    """POSTs JSON to one address, and gets chat completions, or other answers, back.

    Args:
        address: Where to.
        key: The secret that the server wants; it is sent in a header and is nowhere else.
        retries: How patient it is.
        connections: Most connections at one time.
        read: What an answer says; None where it is none that is wanted. Chat completions are read if it is not given.
        what: What is wanted, for messages.
        who: Who is asked, for messages.

    Attributes:
        requests: How many requests were sent.
    """

    def __init__(
        self,
        address: str,
        key: str | None,
        retries: Retries,
        connections: int,
        *,
        read: Callable[[bytes], Any] | None = None,
        what: str = "chat completion",
        who: str = "judge",
    ) -> None:
        self._read, self._what, self._who = read or _chat_completion, what, who
        self.address, self.retries, self.connections, self.requests = address, retries, connections, 0
        self._key = key
        self._dice = random.Random()  # not the global one, which belongs to the caller
        self._open_at = 0.0
        host, scheme = urlsplit(address).hostname or "", urlsplit(address).scheme
        self._proxy = None if proxy_bypass(host) else getproxies().get(scheme)

    async def __aenter__(self) -> Endpoint:
        try:
            import aiohttp
        except ImportError as error:
            raise ConfigError('an HTTP endpoint needs aiohttp: pip install "halo-lightning[judge]"') from error
        self._errors = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
        headers = {"Content-Type": "application/json"}
        if self._key:
            try:
                headers["Authorization"] = f"Bearer {self._key.encode('ascii').decode()}"
            except UnicodeEncodeError:
                raise ConfigError("the key has characters in it that no key has; is it what you meant?") from None
            if re.search(r"\s", self._key):
                raise ConfigError("the key has white space in it; is it what you meant?")
        self._session = aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=self.retries.timeout),
            connector=aiohttp.TCPConnector(limit=self.connections),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    def without_key(self, text: str) -> str:
        """A text of the server's, without the key if it should be in it."""
        return text.replace(self._key, "[key]") if self._key else text

    async def ask(self, request: dict[str, Any]) -> Any:
        """The answer to a request.

        Raises:
            GaveUpError: It had no usable answer in all attempts, or the server refuses it.
            Refused: The server refuses all requests like it, or wants to be left alone for too long.
        """
        attempt = busy = 0
        while True:
            # What a server says about when to come back holds for all requests, but not for all at the same moment.
            while (pause := self._open_at - time.monotonic()) > 0:
                await asyncio.sleep(pause + self.retries.backoff * self._dice.random())
            self.requests += 1
            try:
                status, wanted, body = await self._post(request)
            except self._errors as error:
                status, wanted, body = 0, None, b""
                problem = f"no connection ({type(error).__name__})"
                if isinstance(error, asyncio.TimeoutError):
                    problem = f"no answer in {self.retries.timeout:g} s"
            if status == 200 and (answer := self._read(body)) is not None:
                return answer
            if status:
                problem = self._problem(status, body)
            self._check_wait(wanted)
            # To be sent away as one too many is no failure of the request, as long as there is an end to it.
            if status == 429 and wanted is not None and busy < BUSY * self.retries.attempts:
                busy += 1
                continue
            attempt += 1
            if attempt >= self.retries.attempts:
                raise GaveUpError(f"{problem}, after {attempt} attempts")
            if wanted is None:
                await asyncio.sleep(self.retries.wait(attempt, self._dice))

    def _check_wait(self, wanted: float | None) -> None:
        """Keeps all requests back for as long as the server wants.

        Raises:
            Refused: That is too long.
        """
        if wanted is None:
            return
        if wanted > self.retries.longest_wait:
            raise Refused(
                f"the {self._who} at {self.address} wants to be asked again in {wanted:.0f} s, which is more than"
                f" longest_wait ({self.retries.longest_wait:g} s): run the same command later"
            )
        self._open_at = max(self._open_at, time.monotonic() + wanted)

    def _problem(self, status: int, body: bytes) -> str:
        """What is wrong with an answer that may come to be right.

        Raises:
            GaveUpError: The server will not answer this request.
            Refused: It will answer no such request.
        """
        if status == 200:
            return f"an answer that is no {self._what}"
        problem = f"status {status}{self._said(status, body)}"
        if status in FOR_THIS_ONE:
            raise GaveUpError(problem)
        if status not in AGAIN or b"insufficient_quota" in body:
            raise Refused(f"the {self._who} at {self.address} refuses: {problem}")
        return problem

    async def _post(self, request: dict[str, Any]) -> tuple[int, float | None, bytes]:
        """Status, seconds that the server wants to be left alone for, and body. Redirects are not followed."""
        body = json.dumps(request).encode()
        options: dict[str, Any] = {"data": body, "allow_redirects": False, "proxy": self._proxy}
        async with self._session.post(self.address, **options) as response:
            wait = retry_after(response.headers) if response.status in AGAIN else None
            parts, size = [], 0
            async for part in response.content.iter_chunked(65536):
                parts.append(part)
                size += len(part)
                if size > MOST_BYTES:
                    return response.status, wait, b""
            return response.status, wait, b"".join(parts)

    def _said(self, status: int, body: bytes) -> str:
        """The server's own words, unless they are about the key: they might repeat a part of it."""
        if status in (401, 403):
            return " (the key is missing or not accepted)"
        text = " ".join(self.without_key(body[:2000].decode(errors="replace")).split())
        return f": {text[:300]}" if text else ""


def retry_after(headers: Any) -> float | None:
    """Seconds after which a server wants to be asked again, from its headers; None where it says nothing.

    `Retry-After` has seconds or a date, `retry-after-ms` milliseconds.
    """
    try:
        if (text := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(text) / 1000)
        text = headers.get("Retry-After")
        if text is None:
            return None
        if re.fullmatch(r"\s*\d+(\.\d*)?\s*", text):
            return float(text)
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _chat_completion(body: bytes) -> dict[str, Any] | None:
    """An answer, if it has the form of a chat completion."""
    try:
        value = json.loads(body)
        message = value["choices"][0]["message"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return value if isinstance(message, dict) else None
