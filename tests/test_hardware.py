from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ftmeta.costs import usd_of
from ftmeta.errors import ConfigError
from ftmeta.hardware import (
    CPU,
    cpu_name,
    detect,
    for_device,
    list_hardware,
    load_hardware,
    load_shipped,
    machine_name,
    peak_flops_per_s,
    profile_of,
)
from ftmeta.hardware_files import keep, own_folder, place_for

T4 = "NVIDIA T4"
H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """For profiles of one's own; it is not there yet."""
    monkeypatch.setenv("FTMETA_HARDWARE", str(tmp_path / "hardware"))
    return tmp_path / "hardware"


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A driver that names a GPU; None: there is no driver."""

    def install(name: str | None) -> None:
        programs = tmp_path / "bin"
        programs.mkdir()
        if name is not None:
            (programs / "nvidia-smi").write_text(f"#!/bin/sh\necho '{name}'\n")
            (programs / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", str(programs))

    return install


def entry(device: str = T4, *, machine: str = "here", measured_at: str = "2026-11-01T10:00:00", **more: Any) -> Any:
    return {
        "description": f"{device}, measured",
        "flops_per_s": 2.5e13,
        "bytes_per_s": 2.0e11,
        "overhead_s": 1e-3,
        "weight_bytes": 2,
        "memory_gb": 16,
        "price": "t4",
        "source": "measured",
        "as_of": "2026-11-01",
        "calibration": {"device": device, "machine": machine, "measured_at": measured_at},
        **more,
    }


def test_a_profile_of_ones_own_stands_before_the_shipped_ones(folder: Path) -> None:
    shipped = list_hardware()
    path = keep("t4-lab", entry())
    assert path == folder / "t4-lab.yaml"
    assert set(list_hardware()) == {*shipped, "t4-lab"}
    profile = load_hardware("t4-lab")
    assert (profile.flops_per_s, profile.bytes_per_s, profile.overhead_s) == (2.5e13, 2.0e11, 1e-3)
    assert (profile.source, profile.as_of, profile.price_key) == ("measured", "2026-11-01", "t4")
    assert peak_flops_per_s("t4-lab") is None
    assert load_hardware("l4").source == "estimate"

    keep("l4", entry("NVIDIA L4"))
    assert load_hardware("l4").flops_per_s == 2.5e13
    assert load_shipped("l4").source == "estimate"
    assert for_device("NVIDIA L4") == "l4"


def test_a_changed_file_is_read_again(folder: Path) -> None:
    for flops in (2.5e13, 3.5e13, 4.5e13):  # files of one size, in quick succession
        keep("t4-lab", entry(flops_per_s=flops))
        assert load_hardware("t4-lab").flops_per_s == flops
    (folder / "t4-lab.yaml").unlink()
    with pytest.raises(ConfigError, match="unknown hardware 't4-lab'"):
        load_hardware("t4-lab")


def test_a_profile_may_be_written_by_hand(folder: Path) -> None:
    folder.mkdir()
    (folder / "t4.yaml").write_text(
        "{description: NVIDIA T4, peak_flops_per_s: 6.5e13, utilisation: 0.4, bytes_per_s: 3e11, overhead_s: 4e-5,\n"
        r" weight_bytes: 2, memory_gb: 16, price: t4, source: estimate, detect: '\bT4\b'}"
    )
    assert load_hardware("t4").flops_per_s == pytest.approx(2.6e13)
    assert load_hardware("t4").as_of == "unknown"
    assert peak_flops_per_s("t4") == 6.5e13
    assert for_device(T4) == "t4"
    assert profile_of("Tesla T4") == load_hardware("t4")


def test_this_machine_is_what_was_measured_on_such_a_device(gpu: Any) -> None:
    gpu(None)
    assert detect() == CPU
    keep("cpu-other", entry("another CPU"))
    assert detect() == CPU
    keep("cpu-elsewhere", entry(cpu_name(), machine="elsewhere", measured_at="2026-11-03T10:00:00"))
    assert detect() == "cpu-elsewhere"  # the same kind of CPU, and nothing nearer
    keep("cpu-old", entry(cpu_name(), machine=machine_name(), measured_at="2026-11-01T10:00:00"))
    keep("cpu-new", entry(cpu_name(), machine=machine_name(), measured_at="2026-11-02T10:00:00"))
    assert detect() == "cpu-new"


def test_a_measured_gpu_is_preferred_to_the_shipped_estimate(gpu: Any) -> None:
    gpu(H100)
    keep("cpu-here", entry(cpu_name(), machine=machine_name()))
    assert detect() == "h100-80gb"
    keep("h100-lab", entry(H100))
    assert detect() == "h100-lab"


def test_a_gpu_that_has_no_shipped_profile_has_one_once_it_is_measured(gpu: Any) -> None:
    gpu(T4)
    with pytest.raises(ConfigError, match="measure one there with `ftmeta calibrate`, or name one of a100-80gb"):
        detect()
    assert profile_of(T4) is None
    keep("t4-lab", entry())
    assert detect() == for_device(T4) == "t4-lab"
    assert profile_of(T4) == load_hardware("t4-lab")


def test_runs_of_a_known_device_stay_comparable_when_someone_calibrates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep("cpu-here", entry(cpu_name(), machine=machine_name()))
    keep("h100-lab", entry(H100))
    for device, name in ((cpu_name(), CPU), ("cpu", CPU), (H100, "h100-80gb")):
        found = profile_of(device)
        assert found is not None
        assert found.name == name
    assert profile_of("unknown") is None
    keep("t4-lab", entry())
    (tmp_path / "prices.yaml").write_text("currency: USD\nas_of: 2026-01-01\nprice_usd_per_hour: {t4: 0.36}\n")
    monkeypatch.setenv("FTMETA_PRICES", str(tmp_path / "prices.yaml"))
    assert usd_of(3600, T4) == pytest.approx(0.36)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "valid dictionary"),
        ("just words", "valid dictionary"),
        ("description: [", "while parsing"),
        ("description: half a file\nflops_per_s: 1e1", "Field required"),
        (b"\xff\xfe\x00", "can't decode|unacceptable"),
        ({"flops_per_s": None}, "give either flops_per_s, or peak_flops_per_s and utilisation"),
        ({"peak_flops_per_s": 1e14}, "give either flops_per_s, or peak_flops_per_s and utilisation"),
        ({"flops_per_s": -1.0}, "flops_per_s: Input should be greater than 0"),
        ({"bytes_per_s": float("nan")}, "bytes_per_s: Input should be"),
        ({"overhead_s": float("inf")}, "overhead_s: Input should be a finite number"),
        ({"detect": "("}, "detect is no regular expression"),
        ({"flops": 1e13}, "flops: Extra inputs are not permitted"),
        ({"calibration": {"device": T4}}, "calibration.machine: Field required"),
    ],
)
def test_a_broken_profile_says_what_to_do(folder: Path, text: Any, said: str) -> None:
    import yaml

    folder.mkdir()
    path = folder / "t4-lab.yaml"
    content = yaml.safe_dump(entry(**text)) if isinstance(text, dict) else text
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=said) as caught:
        load_hardware(CPU)
    assert str(path) in str(caught.value)
    assert "correct or remove it, or make it again with `ftmeta calibrate`" in str(caught.value)


def test_a_file_with_a_name_that_cannot_be_given(folder: Path) -> None:
    folder.mkdir()
    (folder / "My GPU.yaml").write_text("{}")
    with pytest.raises(ConfigError, match="'My GPU' cannot be the name of a hardware profile; rename the file"):
        list_hardware()
    (folder / "My GPU.yaml").rename(folder / "My GPU.yaml~")
    (folder / ".hidden.yaml").write_text("{}")
    assert "cpu-core" in list_hardware()


@pytest.mark.parametrize("name", ["", "a b", "../up", "Ünicode", "UPPER", ".hidden", "-dash", "a/b", "x" * 64, "x\n"])
def test_names_that_cannot_be_kept(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a hardware profile; give up to 63 lower-case"):
        keep(name, entry())
    assert not folder.exists()


def test_a_place_that_cannot_be_written_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FTMETA_HARDWARE", str(tmp_path / "file"))
    with pytest.raises(
        ConfigError, match=r"cannot be written .* name a folder for hardware profiles in \$FTMETA_HARDW"
    ):
        place_for("t4-lab")
    with pytest.raises(ConfigError, match=r"which is a file; name a folder in \$FTMETA_HARDWARE"):
        list_hardware()
    monkeypatch.setenv("FTMETA_HARDWARE", str(tmp_path / "file" / "below"))
    assert load_hardware(CPU).name == CPU


def test_without_a_word_profiles_lie_with_ones_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FTMETA_HARDWARE")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert own_folder() == tmp_path / "ftmeta" / "hardware"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert own_folder() == tmp_path / "home" / ".config" / "ftmeta" / "hardware"
    assert CPU in list_hardware()


def test_a_profile_is_kept_whole_or_not_at_all(folder: Path) -> None:
    keep("t4-lab", entry())
    before = (folder / "t4-lab.yaml").read_bytes()
    with pytest.raises(ConfigError, match="overhead_s"):
        keep("t4-lab", entry(overhead_s=-1.0))
    assert (folder / "t4-lab.yaml").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["t4-lab.yaml"]


def test_calibrations_at_once_do_not_lose_each_other(folder: Path) -> None:
    names = [f"t4-{index % 8}" for index in range(48)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: (keep(name, entry()), load_hardware(name)), names))
    assert {path.stem for path in folder.iterdir()} == set(names)
