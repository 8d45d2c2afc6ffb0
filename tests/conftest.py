from __future__ import annotations

from pathlib import Path

import pytest

_TWO_NODES = ("test_two_nodes.py", "test_faults.py")  # they share a cluster of two nodes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Which tests stay in one process where several share the work (`-n 3 --dist loadgroup`): those of a file, and
    those that share a cluster. Their time is spent waiting for it, so the others have the cores meanwhile."""
    for item in items:
        if item.path.name in _TWO_NODES:
            group = "two nodes"
        elif item.get_closest_marker("cluster"):
            group = "cluster"
        else:
            group = str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def _no_hardware_of_ones_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer has measured with `ftmeta calibrate` stays out of the tests."""
    monkeypatch.setenv("FTMETA_HARDWARE", str(Path(tmp_path_factory.getbasetemp()) / "no-own-hardware"))
