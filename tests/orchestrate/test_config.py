"""Messages about YAML files of jobs and sweeps: the key that is wrong, and nothing beside it."""

from pathlib import Path

import pytest

from ftmeta.errors import ConfigError, UserError
from ftmeta.orchestrate.config import load_config
from ftmeta.orchestrate.sweep import Sweep
from jobs.finetune import Finetune, run


def said(tmp_path: Path, text: str, model: type = Finetune) -> str:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(file, model)
    return str(error.value).removeprefix(f"{file}: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("zero: 2", "zero belongs to a run on several workers; give workers too"),
        ("{workers: 2, min_workers: 3}", "min_workers is 3, more than the 2 workers"),
        ("{workers: 2, cpus: 4}", "cpus belongs to a run in one process; with workers give cpus_per_worker"),
        ("{workers: 2, zero: 1}", "zero: Input should be 0, 2 or 3"),
        ("workers: yes", "workers: Input should be a valid integer"),
        ("seed: -1", "seed: Input should be greater than or equal to 0"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(tmp_path: Path, line: str, message: str) -> None:
    entries = line.strip("{}").replace(", ", "\n")
    assert said(tmp_path, f"data: elements\n{entries}\n") == message


def test_known_keys_are_listed_for_an_unknown_one(tmp_path: Path) -> None:
    message = said(tmp_path, "data: elements\nwrokers: 2\n")
    assert message.startswith("wrokers: Extra inputs are not permitted; known keys: data, space, pipeline")


@pytest.mark.parametrize("seeds", ["seeds: [-1]", "replicates: {pipelines: 1, seeds: [-1]}", "seeds: [yes]"])
def test_seeds_of_a_sweep(tmp_path: Path, seeds: str) -> None:
    assert "seeds.0: Input should be" in said(tmp_path, f"name: x\ntasks: [elements]\n{seeds}\n", Sweep)


def test_before_ray_is_started(tmp_path: Path) -> None:
    """Neither a fidelity that does not exist nor a folder that does costs a start."""
    with pytest.raises(ConfigError, match="fidelity is 99; a run ends at 10"):
        run(Finetune(data="elements", fidelity=99), None, None)
    with pytest.raises(UserError, match="exists already"):
        run(Finetune(data="elements", workers=2), tmp_path, None)
