"""What a driver says of itself: running, ended, dead, silent, or on another machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ftmeta.orchestrate import beacon
from ftmeta.orchestrate.beacon import Beacon, earlier, heard

DRIVER = (
    "import sys, time; from pathlib import Path; from ftmeta.orchestrate.beacon import Beacon\n"
    "with Beacon(Path(sys.argv[1]), lambda: {'done': 3}): print('here', flush=True); time.sleep(60)"
)


def rewritten(out: Path, **changes: Any) -> None:
    """The one driver's file, changed."""
    (path,) = (out / "drivers").glob("*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_driver_runs_and_ends(tmp_path: Path) -> None:
    facts = {"done": 0}
    with Beacon(tmp_path, lambda: dict(facts), every_s=0.01):
        (first,) = heard(tmp_path)
        assert (first.state, first.pid, first.is_me, first.said["done"]) == ("running", os.getpid(), True, 0)
        facts["done"] = 1
        deadline = time.monotonic() + 30
        while heard(tmp_path)[0].said["done"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    (last,) = heard(tmp_path)
    assert (last.state, last.said["ended"]) == ("ended", "finished")


def test_an_error_is_how_it_ended(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), Beacon(tmp_path, dict):
        raise ValueError("the disk\nis full, x")
    assert heard(tmp_path)[0].said["ended"] == "ValueError: the disk is full, x"


def test_a_driver_that_was_killed_is_dead_at_once_and_the_next_one_tidies_up(tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "here\n"
        assert [(one.state, one.pid, one.said["done"]) for one in heard(tmp_path)] == [("running", driver.pid, 3)]
        driver.send_signal(signal.SIGSTOP)
        rewritten(tmp_path, written=time.time() - 2 * beacon.SILENT_AFTER_S)
        assert heard(tmp_path)[0].state == "silent"
        driver.kill()
        driver.wait()
    assert heard(tmp_path)[0].state == "dead"
    with Beacon(tmp_path, dict):
        assert [one.pid for one in heard(tmp_path)] == [os.getpid()]


def test_a_later_process_of_the_same_number_is_not_the_driver(tmp_path: Path) -> None:
    with Beacon(tmp_path, dict):
        rewritten(tmp_path, process_started=time.time() - 1e6)
        assert heard(tmp_path)[0].state == "dead"


def test_another_machine_is_believed_for_a_minute(tmp_path: Path) -> None:
    with Beacon(tmp_path, dict):
        rewritten(tmp_path, host="elsewhere")
        assert [(one.state, one.is_me) for one in heard(tmp_path)] == [("running", False)]
        rewritten(tmp_path, process_started=time.time() - 1e6)
        assert [one.host for one in earlier(tmp_path)] == ["elsewhere"]
        rewritten(tmp_path, process_started=time.time() + 1e6)
        assert earlier(tmp_path) == []
        rewritten(tmp_path, written=time.time() - 2 * beacon.SILENT_AFTER_S)
        assert heard(tmp_path)[0].state == "dead"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}', '{"format": 1, "host": "x"}'])
def test_a_torn_file_is_passed_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers" / "x-1.json").write_text(content)
    assert heard(tmp_path) == []
    with Beacon(tmp_path, dict):
        assert len(heard(tmp_path)) == 1


def test_a_folder_that_cannot_be_written_ends_no_sweep(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "drivers").write_text("a file where the folder should be")
    with Beacon(tmp_path, dict):
        pass
    assert len(caplog.messages) == 1
    assert "the sweep goes on without it" in caplog.text
