"""What identifies settings: their digest, and the seeds that depend on them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel


def digest(*parts: Any) -> str:
    """Sixteen hex characters that identify settings: sections, plain values, or other digests."""

    def plain(part):
        return part.model_dump(mode="json") if isinstance(part, BaseModel) else part

    text = json.dumps([plain(p) for p in parts], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def seed_of(*parts: Any) -> int:
    """A 63-bit seed that depends on every part: the one way randomness is derived from the spec."""
    return int.from_bytes(hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest(), "big") >> 1
