"""Fingerprints: what identifies a tokenizer, and the code that makes tokens of rows."""

from __future__ import annotations

import hashlib
from datetime import date
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("tokenizers", "transformers", "jinja2", "numpy")
"""Libraries that tokens depend on: of the tokenizer, of the chat template, and of what is drawn at random."""


def tokenizer_fingerprint(tokenizer: Any) -> dict[str, Any] | None:
    """Everything that the tokens depend on, as JSON values; None for a tokenizer that does not say what it is.

    That is one without the fast implementation of `tokenizers`, or of a class that is not from `transformers`.

    Args:
        tokenizer: A tokenizer that went through `prepare_tokenizer`.
    """
    kind = type(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not kind.__module__.startswith("transformers."):
        return None
    # Truncation and padding come first. They are settings of the last call, and the next call has its own.
    text = backend.to_str()
    model = text[max(text.find('"added_tokens"'), 0) :]
    found = {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "model": hashlib.sha256(model.encode()).hexdigest(),
        "chat_template": tokenizer.chat_template,
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "ids": [tokenizer.bos_token_id, tokenizer.eos_token_id],
    }
    if "strftime_now" in str(tokenizer.chat_template):  # some templates tell the model today's date
        found["date"] = date.today().isoformat()
    return found


@lru_cache(maxsize=1)
def code_fingerprint() -> dict[str, str]:
    """The version of everything that makes tokens of rows: of the libraries, and the code of this package's data room.

    The code itself is hashed, so that nobody has to remember to count up the version of a format.
    """
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\n".encode() + path.read_bytes())
    return {"halo_lightning.data": digest.hexdigest(), **{name: version(name) for name in LIBRARIES}}
