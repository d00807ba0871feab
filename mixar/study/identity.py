"""What identifies settings: their digest, and the seeds that depend on them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel

IN_DIGEST = "digest"  # serialization context: paths as they enter a digest


def plain(section: BaseModel, **choice: Any) -> dict:
    """A section as it enters a digest, with one text for all spellings of a path. choice: include=, exclude=."""
    return section.model_dump(mode="json", context={IN_DIGEST: True}, **choice)


def digest(*parts: Any) -> str:
    """Sixteen hex characters that identify settings: sections, plain values, or other digests."""
    text = json.dumps([plain(part) if isinstance(part, BaseModel) else part for part in parts], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def seed_of(*parts: Any) -> int:
    """A 63-bit seed that depends on every part: the one way randomness is derived from the spec."""
    return int.from_bytes(hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest(), "big") >> 1
