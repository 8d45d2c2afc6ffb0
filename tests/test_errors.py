"""The error tree: exit codes, and errors that survive Ray's pickling."""

import pickle

import pytest

from ftmeta import errors


@pytest.mark.parametrize("kind", [e for e in vars(errors).values() if isinstance(e, type)])
def test_errors_survive_pickling(kind: type[errors.FtmetaError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("found 3, wanted 4")))
    assert type(copy) is kind
    assert str(copy) == "found 3, wanted 4"
    assert copy.exit_code == (2 if issubclass(kind, errors.UserError) else 1)
