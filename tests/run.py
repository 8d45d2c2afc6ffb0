"""All tests that are not `long`, in two processes: `make test`.

Tests with a cluster wait more than they compute, so the others have the cores meanwhile. What those say comes at the
end, in one piece.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

_PYTEST = [sys.executable, "-m", "pytest", "-m"]


def main() -> int:
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        others = subprocess.Popen([*_PYTEST, "not cluster and not long"], stdout=said, stderr=subprocess.STDOUT)
        try:
            first = subprocess.run([*_PYTEST, "cluster and not long"]).returncode
            second = others.wait()
        finally:
            others.terminate()
            others.wait()
        said.seek(0)
        sys.stdout.write(said.read())
    return first or second


if __name__ == "__main__":
    sys.exit(main())
