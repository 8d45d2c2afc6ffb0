"""What the entry points share: errors become one message on standard error and an exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from ftmeta.errors import FtmetaError


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Ends the process with 2 for a user's mistake and 1 for a failure of the system, both without a traceback."""
    try:
        yield
    except FtmetaError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
