from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ftmeta.errors import ConfigError
from ftmeta.serving.tokens import VARIABLE, is_loopback, is_valid, load_token_hashes, require_tokens


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def test_hashes_come_from_the_environment_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# rotated in March\n{sha256('three').upper()}  # three\n\n")
    found = load_token_hashes(file, {VARIABLE: f"{sha256('one')}, {sha256('two')}"})
    assert found == (sha256("one"), sha256("two"), sha256("three"))
    assert all(is_valid(token, found) for token in ("one", "two", "three"))
    assert not any(is_valid(token, found) for token in ("four", "", sha256("one"), "ö\udcff"))


def test_without_hashes_there_are_none() -> None:
    assert load_token_hashes(None, {}) == ()


@pytest.mark.parametrize("text", ["secret", sha256("one")[:-1], sha256("one") + "0"])
def test_what_is_no_hash_is_refused_without_being_shown(text: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(ConfigError, match="line 1: not a SHA-256 hash") as caught:
        load_token_hashes(file, {})
    assert text not in str(caught.value)


def test_a_missing_token_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_token_hashes(tmp_path / "absent", {})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.3.2.1", "::ffff:127.0.0.1"])
def test_loopback_needs_no_tokens(host: str) -> None:
    assert is_loopback(host)
    require_tokens(host, ())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", ""])
def test_any_other_address_does(host: str) -> None:
    assert not is_loopback(host)
    require_tokens(host, (sha256("one"),))
    with pytest.raises(ConfigError, match=VARIABLE):
        require_tokens(host, ())
