"""Atomic writes and fingerprints."""

import pytest

from ftmeta.files import atomic_path, fingerprint, fingerprint_files, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def write_half() -> None:
        with atomic_path(target) as path:
            path.write_text("new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert target.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_replaces_a_folder(tmp_path) -> None:
    target = tmp_path / "folder"
    for name in ("one", "two"):
        with atomic_path(target) as path:
            path.mkdir()
            (path / name).touch()
    assert [entry.name for entry in target.iterdir()] == ["two"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_json_refuses_nan_and_writes_nothing(tmp_path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_fingerprints_do_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2, 3]}) == fingerprint({"b": [2, 3], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})


def test_the_fingerprint_of_files_is_of_names_and_contents(tmp_path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_text("x")
    two.write_text("y")
    before = fingerprint_files([one, two])
    assert fingerprint_files([two, one]) == before
    two.write_text("z")
    assert fingerprint_files([one, two]) != before
