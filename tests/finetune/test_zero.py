"""Two processes under DeepSpeed learn what one process learns: same losses, same curve, same adapter at each stage.

Tolerance without dropout: 1e-5 relative in the loss of each step and in the NLL of each point, float32 (sums in another
order). In bfloat16 the adapter itself is rounded in the forward pass: 2 %.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from zero_ranks import ALONE, CASES, LATER, main

from ftmeta.finetune import adapters
from ftmeta.finetune.dropout import BitDropout
from ftmeta.finetune.zero import bring_along, load_base
from ftmeta.models import resolve

HERE = Path(__file__).parent
pytestmark = pytest.mark.timeout(400)  # the first test waits for all cases


def run_ranks(folder: Path, ranks: int, *device: str) -> None:
    """All cases, by so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    if not device:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, str(HERE / "zero_ranks.py"), str(folder)]
    with (folder / "log").open("w") as log:
        processes = [
            subprocess.Popen([*command, str(rank), str(ranks), port, *device], env=environment, stdout=log, stderr=log)
            for rank in range(ranks)
        ]
        try:
            codes = [process.wait(timeout=380) for process in processes]
        finally:
            for process in processes:
                process.kill()
    assert codes == [0] * ranks, (folder / "log").read_text()[-3000:]


@pytest.fixture(scope="module")
def folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases, run: those of two processes in one group of processes, one after the other."""
    folder = tmp_path_factory.mktemp("zero")
    (folder / "model").symlink_to(model_folder)
    main(folder, 0, 1, "", ALONE)
    run_ranks(folder, 2)
    main(folder, 0, 1, "", LATER)
    return folder


def outcome(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


def adapter(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}-adapter" / "adapter_model.safetensors")


def assert_same(folder: Path, name: str, alone: str, tolerance: float, *, from_step: int = 0) -> None:
    found, wanted = outcome(folder, name), outcome(folder, alone)
    assert found["status"] == wanted["status"] == "ok"
    assert found["losses"] == pytest.approx(wanted["losses"][from_step:], rel=tolerance)
    for key in ("val_nll", "test_nll", "train_loss", "step", "examples", "tokens", "fidelity"):
        points = zip(found["curve"], wanted["curve"][-len(found["curve"]) :], strict=True)
        for mine, theirs in points:
            expected = theirs[key] if theirs[key] is None else pytest.approx(theirs[key], rel=tolerance)
            assert mine[key] == expected, key
    assert found["test"]["nll"] == pytest.approx(wanted["test"]["nll"], rel=tolerance)
    if tolerance < 1e-3:
        for measured in ("test", "zero_shot"):
            assert found[measured] == pytest.approx(wanted[measured], rel=tolerance, abs=1e-5), (
                "all 11 answers are generated"
            )


@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("method", ["lora", "dora", "ia3"])
def test_the_curve_is_that_of_one_process(folder: Path, method: str, stage: int) -> None:
    assert_same(folder, f"{method}-{stage}", f"alone-{method}", 1e-5)


@pytest.mark.parametrize("method", ["lora", "dora", "ia3"])
def test_adapters_are_whole_and_equal_at_each_stage(folder: Path, method: str) -> None:
    alone = adapter(folder, f"alone-{method}")
    for stage in (0, 2, 3):
        found = adapter(folder, f"{method}-{stage}")
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            assert found[name].numel() > 0
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft 0.21 asks by the old name
def test_an_adapter_trained_in_pieces_loads_without_ftmeta(folder: Path) -> None:
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "model")
    loaded = peft.PeftModel.from_pretrained(base, folder / "lora-3-adapter")
    weights = [p for name, p in loaded.named_parameters() if "lora_B" in name]
    assert weights
    assert all(weight.abs().sum() > 0 for weight in weights)


def test_pieces_that_do_not_divide_evenly_and_activation_checkpointing(folder: Path) -> None:
    assert_same(folder, "odd-3", "alone-odd", 1e-5)
    assert_same(folder, "resumed-odd-3", "alone-odd", 1e-5, from_step=3)
    assert_same(folder, "alone-checkpointing", "alone-lora", 1e-5)


def test_a_rank_may_have_no_example(folder: Path) -> None:
    assert_same(folder, "few-2", "alone-few", 1e-5)


@pytest.mark.parametrize("name", ["resumed-0", "resumed-2", "resumed-3", "alone-resumed"])
def test_a_run_goes_on_with_other_ranks_and_stages(folder: Path, name: str) -> None:
    """Checkpoints after step 3, in the middle of a fidelity, written at stage 3, by one process, at stage 2."""
    assert_same(folder, name, "alone-lora", 1e-5, from_step=3)


def test_dropout_goes_on_where_it_was(folder: Path) -> None:
    assert_same(folder, "resumed-dropout-2", "dropout-2", 1e-6, from_step=3)
    apart = outcome(folder, "dropout-2")["losses"][-1] - outcome(folder, "alone-lora")["losses"][-1]
    assert abs(apart) > 1e-4, "dropout is on"


@pytest.mark.parametrize(("stage", "place"), [(0, "cpu"), (2, "cpu"), (3, "cpu"), (3, "cuda:0")])
def test_under_stage_3_the_whole_model_waits_in_host_memory(stage: int, place: str, model_folder: Path) -> None:
    base = load_base(resolve(str(model_folder)), place, stage)
    assert base.device == torch.device(place)
    assert {weight.device.type for weight in base.model.parameters()} == {"cpu"}
    assert base.model.dtype == (torch.bfloat16 if place == "cuda:0" else torch.float32)  # as the device computes


def test_what_deepspeed_leaves_on_the_cpu_follows_its_weights(model_folder: Path) -> None:
    """The meta device stands for one that is not the CPU; DeepSpeed has moved the parameters by then."""
    model = load_base(resolve(str(model_folder)), "cpu", 3).model
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_dropout=0.1, target_modules=["qkv_proj"])
    adapted = adapters.attach(model, config)
    made_for_cpus = [module for module in adapted.modules() if isinstance(module, BitDropout)]
    assert made_for_cpus
    bring_along(adapted, torch.device("meta"))
    assert {buffer.device.type for buffer in adapted.buffers()} == {"meta"}
    assert not any(isinstance(module, BitDropout) for module in adapted.modules())
    dropouts = [module for module in adapted.modules() if isinstance(module, nn.Dropout) and module.p == 0.1]
    assert len(dropouts) == len(made_for_cpus)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_devices(model_folder: Path, tmp_path: Path) -> None:
    """One process a device, at most two, over NCCL: the curve of one process on the CPU."""
    (tmp_path / "model").symlink_to(model_folder)
    main(tmp_path, 0, 1, "", ALONE)
    run_ranks(tmp_path, min(2, torch.cuda.device_count()), "cuda")
    for stage in (0, 2, 3):
        assert_same(tmp_path, f"lora-{stage}", "alone-lora", 5e-4)
        assert_same(tmp_path, f"half-{stage}", "alone-half", 0.03)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_bfloat16(folder: Path, stage: int) -> None:
    assert_same(folder, f"half-{stage}", "alone-half", 0.02)
    assert_same(folder, f"resumed-half-{stage}", f"half-{stage}", 1e-6, from_step=3)  # the float32 copy is restored
    assert adapter(folder, f"half-{stage}").keys() == adapter(folder, "alone-half").keys()
    assert {value.dtype for value in adapter(folder, f"half-{stage}").values()} == {torch.float32}


def test_checkpoints_hold_adapter_and_optimizer_only(folder: Path) -> None:
    for name in (name for name, case in CASES.items() if "start" not in case and case["method"] == "lora"):
        parameters = sum(value.numel() for value in adapter(folder, name).values())
        state = folder / f"{name}-checkpoint" / "state.safetensors"
        assert state.stat().st_size < 3 * 4 * parameters + 60_000, name  # two moments; names, steps, random states
        kinds = {key.split("/")[0] for key in load_file(state)}
        assert kinds == {"adapter", "optimizer", "random"}
