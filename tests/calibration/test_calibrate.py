from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner

from ftmeta.calibration import calibrate
from ftmeta.calibration.calibrate import profile_entry, require_good
from ftmeta.calibration.device import Device, describe, describe_gpu
from ftmeta.calibration.fit import Measured, fit
from ftmeta.calibration.workloads import REFERENCE, workloads
from ftmeta.cli import calibrating
from ftmeta.errors import ConfigError, FtmetaError, ModelError, UserError
from ftmeta.hardware import cpu_name, load_hardware, load_shipped, machine_name, profile_of
from ftmeta.hardware_files import keep
from ftmeta.models import resolve
from ftmeta.schema import ModelShape
from ftmeta.selector import load_selector

SHAPE = ModelShape(1_537_920, 128, 344, 5, 2048, 512)
CPU = load_shipped("cpu-core")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FTMETA_HARDWARE", str(tmp_path / "hardware"))
    return tmp_path / "hardware"


def measured(speed: float = 1.0, spread: float = 0.0, shape: ModelShape = SHAPE) -> dict[str, Measured]:
    """As a core would that is `speed` times the shipped one."""
    found = {}
    for one in workloads(shape):
        work = one.work(shape, 5, CPU.weight_bytes)
        seconds = float(work.seconds(CPU)[-1]) / speed
        found[one.name] = Measured(work, (seconds * (1 - spread / 2), seconds * (1 + spread / 2)))
    return found


# --- a real run -------------------------------------------------------------------------------------------------------


def test_a_real_calibration_predicts_what_it_measured(folder: Path) -> None:
    threads, said = torch.get_num_threads(), []
    document = calibrate(
        "phi3-micro", seconds=3, device="cpu", most_spread=10.0, most_error=10.0, say=said.append
    )  # the machine that tests run on may be busy: what is refused there has tests of its own
    assert torch.get_num_threads() == threads
    name = f"cpu-core-{machine_name()}"
    assert document["hardware"] == name
    assert document["path"] == str(folder / f"{name}.yaml")
    profile = load_hardware(name)
    assert (profile.source, profile.price_key, profile.memory_gb) == ("measured", "cpu-core", CPU.memory_gb)
    assert profile.flops_per_s == pytest.approx(document["flops_per_s"], rel=1e-3)
    assert cpu_name() in profile.description

    names = [one["name"] for one in document["workloads"]]
    assert REFERENCE in names
    for one in document["workloads"]:
        assert one["repeats"] >= 2
        assert 1 / 4 < one["predicted_s"] / one["measured_s"] < 4
    reference = next(one for one in workloads(SHAPE) if one.name == REFERENCE)
    work = reference.work(SHAPE, 100, profile.weight_bytes)
    predicted = float(work.tokens[-1] / work.seconds(profile)[-1])
    assert 1 / 3 < predicted / document["tokens_per_s"] < 3

    assert document["flops_utilisation"] is None or 0 < document["flops_utilisation"] <= 1
    assert "warming up: " + REFERENCE in said
    assert set(document) >= {"hardware", "tokens_per_s", "flops_utilisation", "seconds", "kept", "repeat_spread"}
    json.dumps(document, allow_nan=False)
    shown = io.StringIO()
    calibrating.show_calibration(Console(file=shown, width=200), document)
    assert f"{document['tokens_per_s']:,.0f} tokens/s" in shown.getvalue()
    assert "not measured: bytes_per_s" in shown.getvalue()


# --- what is measured -------------------------------------------------------------------------------------------------


def test_workloads_are_counted_as_the_worker_runs_them() -> None:
    for one in workloads(SHAPE):
        tokenized, work = one.tokenized(SHAPE, 3), one.work(SHAPE, 3, 4)
        if one.trains:
            steps = -(-one.budget(3).epochs * len(tokenized.splits["train"]) // one.examples)
            assert work.steps[-1] == steps == 3
            assert work.tokens[-1] == 3 * sum(map(len, tokenized.splits["train"])) == 3 * one.tokens
        else:
            assert len(tokenized.splits["validation"]) == one.budget(3).eval_examples == 3 * one.examples
            assert work.steps[-1] == work.tokens[-1] == 0
            assert work.flops[-1] > 0
        assert all(row.ids.max() < SHAPE.vocab_size for row in tokenized.splits["train"])


def test_workloads_fit_into_the_model() -> None:
    assert max(one.prompt_tokens + one.answer_tokens for one in workloads(SHAPE)) == 512
    small = workloads(replace(SHAPE, context_length=64, hidden_size=32))
    assert {one.prompt_tokens + one.answer_tokens for one in small} == {32}
    assert max(int(one.pipeline["lora_rank"]) for one in small) == 32
    assert sum(one.needed for one in small) == 4


# --- what is kept -----------------------------------------------------------------------------------------------------


def here() -> Device:
    return describe(torch.device("cpu"))


def test_the_kept_profile_is_that_of_the_machine_that_was_measured() -> None:
    found = measured(speed=2.0)
    keep("cpu-fast", profile_entry(here(), fit(list(found.values()), CPU), found, "phi3-micro"))
    profile = load_hardware("cpu-fast")
    assert profile.flops_per_s == pytest.approx(2 * CPU.flops_per_s, rel=1e-4)
    assert profile.overhead_s == pytest.approx(CPU.overhead_s / 2, rel=1e-4)
    for one in found.values():
        assert float(one.work.seconds(profile)[-1]) == pytest.approx(one.typical_s, rel=1e-3)


def test_recommendations_rest_on_a_measured_profile_without_more_ado() -> None:
    selector, base_model = load_selector(), resolve("phi3-micro")
    metafeatures = dict(selector.surrogates.sources[0].metafeatures)

    def asked(hardware: str) -> tuple[float, list[str]]:
        found, warnings = selector.recommend(metafeatures, base_model, top_k=1, hardware=hardware)
        return found[0].cost_s, warnings

    shipped_s, shipped_warnings = asked("h100-80gb")
    assert any("is an estimate from its data sheet" in one for one in shipped_warnings)
    device = describe_gpu("NVIDIA H100 80GB HBM3", 80)
    slower = {name: replace(one, seconds=tuple(9 * s for s in one.seconds)) for name, one in measured().items()}
    as_slow = fit(list(slower.values()), CPU).profile
    numbers = {"bytes_per_s": as_slow.bytes_per_s, "overhead_s": as_slow.overhead_s}
    entry = profile_entry(device, fit(list(slower.values()), device.like), slower, "phi3-micro")
    keep("h100-lab", {**entry, "flops_per_s": as_slow.flops_per_s, **numbers})
    measured_s, measured_warnings = asked("h100-lab")
    assert measured_s > 10 * shipped_s
    assert not any("estimate from its data sheet" in one for one in measured_warnings)
    assert any("NVIDIA H100 80GB HBM3, bfloat16, measured on" in one for one in measured_warnings)


def test_noise_is_refused() -> None:
    found = measured(spread=0.3)
    with pytest.raises(
        FtmetaError, match=r"times that are 30% apart .* so no profile was kept; end other work"
    ) as said:
        require_good(found, fit(list(found.values()), CPU))
    assert not isinstance(said.value, UserError)  # exit code 1
    require_good(found, fit(list(found.values()), CPU), most_spread=0.4)


def test_what_the_counts_do_not_explain_is_refused() -> None:
    found = {
        name: replace(one, seconds=tuple(s * (4 if index % 2 else 1) for s in one.seconds))
        for index, (name, one) in enumerate(measured().items())
    }
    with pytest.raises(
        FtmetaError, match=r"median error of \d\d% .* no profile was kept; calibrate again while nothing"
    ):
        require_good(found, fit(list(found.values()), CPU))


# --- devices and names ------------------------------------------------------------------------------------------------


def test_devices_are_put_beside_shipped_profiles() -> None:
    assert here().default_profile() == f"cpu-core-{machine_name()}"
    assert here().name == cpu_name()
    h100 = describe_gpu("NVIDIA H100 80GB HBM3", 79.6)
    assert (h100.like.name, h100.is_known, h100.memory_gb) == ("h100-80gb", True, 80)
    assert h100.default_profile() == f"h100-80gb-{machine_name()}"
    t4 = describe_gpu("NVIDIA T4", 14.6)
    assert (t4.like.memory_gb, t4.is_known, t4.memory_gb, t4.price_key) == (24, False, 14.6, "t4")
    assert t4.default_profile() == f"t4-{machine_name()}"


@pytest.mark.parametrize(
    ("device", "name", "said"),
    [
        ("cpu", "lab", "whose name begins with 'cpu'; choose another, as cpu-core-"),
        ("cpu", "h100-80gb", "whose name begins with 'cpu'"),
        ("NVIDIA L4", "cpu-lab", "whose name does not begin with 'cpu'; choose another, as l4-"),
        ("NVIDIA L4", "h100-80gb", "is the shipped profile of another device than NVIDIA L4; choose another name"),
        ("NVIDIA T4", "l4", "is the shipped profile of another device than NVIDIA T4"),
    ],
)
def test_a_name_does_not_say_what_the_device_is_not(device: str, name: str, said: str) -> None:
    found = here() if device == "cpu" else describe_gpu(device, 24)
    with pytest.raises(ConfigError, match=said):
        found.check_name(name)


def test_the_shipped_name_of_the_device_itself_may_be_given() -> None:
    here().check_name("cpu-core")
    describe_gpu("NVIDIA L4", 24).check_name("l4")
    found = measured(speed=3.0)
    keep("cpu-core", profile_entry(here(), fit(list(found.values()), CPU), found, "phi3-micro"))
    profile = profile_of(cpu_name())
    assert profile is not None
    assert profile.flops_per_s == pytest.approx(3 * CPU.flops_per_s, rel=1e-4)


def test_mistakes_are_told_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="unknown base model 'phi3-mikro'; did you mean phi3-micro"):
        calibrate("phi3-mikro")
    with pytest.raises(ConfigError, match="'my machine' cannot be the name of a hardware profile"):
        calibrate(hardware="my machine", device="cpu")
    with pytest.raises(ModelError, match="device 'tpu' is unknown; give cpu, cuda or cuda:0"):
        calibrate(device="tpu")
    with pytest.raises(ModelError, match="device 'meta' is not one that finetuning runs on"):
        calibrate(device="meta")
    with pytest.raises(ModelError, match=r"torch finds .* CUDA devices and no 'cuda:99'"):
        calibrate(device="cuda:99")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FTMETA_HARDWARE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="cannot be written"):
        calibrate(device="cpu")


def test_the_command_tells_them_with_nothing_on_standard_output() -> None:
    app = typer.Typer()
    calibrating.register(app)
    for arguments in (["--hardware", "lab", "--device", "cpu"], ["--base-model", "nothing-like-it"]):
        done = CliRunner().invoke(app, [*arguments, "--json"])
        assert isinstance(done.exception, UserError)
        assert done.exception.exit_code == 2
        assert done.stdout == ""
    assert "Example:" in CliRunner().invoke(app, ["--help"]).stdout
