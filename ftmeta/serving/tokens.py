"""Bearer tokens: only their SHA-256 hashes are kept, several may be valid at once (for rotation).

Make one with `openssl rand -hex 32`, its hash with `printf %s TOKEN | sha256sum`. Hashes come from the environment
variable FTMETA_API_TOKENS_SHA256 (separated by commas or spaces) and from a file (one a line; `#` starts a comment).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ftmeta.errors import ConfigError

VARIABLE = "FTMETA_API_TOKENS_SHA256"


def load_token_hashes(file: Path | str | None, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The hashes of all valid tokens, none if none are configured. Raises ConfigError that never shows a hash."""
    found = [(VARIABLE, word) for word in re.split(r"[\s,]+", environment.get(VARIABLE, "")) if word]
    if file is not None:
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"token file {file} cannot be read ({type(error).__name__}); give a readable text file"
            ) from None
        stripped = [(number, line.split("#")[0].strip()) for number, line in enumerate(lines, start=1)]
        found += [(f"{file}, line {number}", word) for number, word in stripped if word]
    for place, word in found:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", word):
            raise ConfigError(f"{place}: not a SHA-256 hash (64 hexadecimal digits); use `printf %s TOKEN | sha256sum`")
    return tuple(word.lower() for _, word in found)


def is_valid(token: str, hashes: Sequence[str]) -> bool:
    """Compares with every hash, each in constant time, so that the time taken tells nothing."""
    presented = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
    matches = [hmac.compare_digest(presented, known) for known in hashes]
    return any(matches)


def is_loopback(host: str) -> bool:
    """Whether `host` (an address or `localhost`) can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def require_tokens(host: str, hashes: Sequence[str]) -> None:
    """Raises ConfigError where the service would listen beyond this machine without asking for a token."""
    if not hashes and not is_loopback(host):
        raise ConfigError(
            f"the service would listen on {host} without a token, open to the network; set {VARIABLE} or give a token "
            "file with SHA-256 hashes of bearer tokens, or listen on 127.0.0.1"
        )
