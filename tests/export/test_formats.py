"""The contract of every format: no setting is lost without a word, and what is said to be carried is in the files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import yaml

from ftmeta.errors import SpaceError, UserError
from ftmeta.export import FORMATS, export
from ftmeta.export.recipe import Recipe, Written, recipe
from ftmeta.finetune import adapters
from ftmeta.finetune.settings import settings_of
from ftmeta.models import LoadedModel, load, resolve
from ftmeta.schema import BaseModelInfo, Budget, Example, Message, Pipeline, Task
from ftmeta.space import Categorical, Number, Space, load_pipeline, load_space
from ftmeta.tasks import load_task
from tests.finetune.conftest import make_model, make_task

formats = pytest.mark.parametrize("format", FORMATS)


def other_values(space: Space) -> list[tuple[str, Any]]:
    """Each hyperparameter with each value that is not its default."""
    found: list[tuple[str, Any]] = []
    for name, domain in space.domains.items():
        values: list[Any] = [0.5] if isinstance(domain, Number) else []
        values += domain.choices if isinstance(domain, Categorical) else getattr(domain, "values", [])
        found += [(name, value) for value in values if value != domain.default]
    return found


@formats
@pytest.mark.parametrize(("name", "value"), other_values(load_space()), ids=lambda part: str(part))
def test_a_setting_is_in_the_files_or_named_as_not_carried(
    name: str, value: Any, format: str, recipe_of: Callable[..., Recipe]
) -> None:
    usual, changed = recipe_of(), recipe_of(**{name: value})
    before, after = FORMATS[format](usual), FORMATS[format](changed)
    lost = {one.setting: one for one in after.not_carried}
    assert set(changed.pipeline.values) <= set(after.carried) | set(lost)
    if name in lost:
        assert lost[name].value == value
        assert lost[name].why
    else:
        texts = [configuration(made, one) for made, one in ((before, usual), (after, changed))]
        assert texts[0] != texts[1]


def configuration(made: Written, of: Recipe) -> dict[str, str]:
    """The files without the comment that names the pipeline."""
    return {path: text.replace(of.pipeline.id, "") for path, text in made.files.items()}


@formats
def test_what_a_setting_became_stands_in_the_files(format: str, recipe_of: Callable[..., Recipe]) -> None:
    every = {"lora_plus_ratio": 4, "neftune_alpha": 5, "label_smoothing": 0.1, "adapted_layers": "upper_half"}
    made = FORMATS[format](recipe_of(peft_method="dora", **every))
    text = "\n".join(text for path, text in made.files.items() if not path.startswith("data/"))
    lost = {one.setting for one in made.not_carried}
    for name, where in made.carried.items():
        for key in re.findall(r"`([\w.]+)`", where):
            assert name in lost or key in text or key in made.files or key == "layers_to_transform", (name, key)


@formats
def test_the_default_is_carried_whole_with_what_runs_it(
    format: str, recipe_of: Callable[..., Recipe], tmp_path: Path
) -> None:
    made = recipe_of()
    exported = export(
        made.pipeline, made.task, made.base_model, format, tmp_path / "a" / "folder", budget=made.budget, seed=3
    )
    assert exported.not_carried == ()
    assert sorted(exported.files) == sorted(
        str(path.relative_to(exported.folder)) for path in exported.folder.rglob("*") if path.is_file()
    )
    readme = (exported.folder / "README.md").read_text(encoding="utf-8")
    assert exported.command in readme
    assert "Every setting is carried." in readme
    assert all(f"| {name} | {value} |" in readme for name, value in made.pipeline.values.items())
    assert exported.to_json()["folder"] == str(exported.folder)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["folder"]  # nothing half-made beside it


def test_llama_factory_and_axolotl_have_no_ia3_and_say_what_stands_in_its_place(
    recipe_of: Callable[..., Recipe], tmp_path: Path
) -> None:
    made = recipe_of(peft_method="ia3", lr_multiplier=8.0)
    for format in ("llama-factory", "axolotl"):
        exported = export(made.pipeline, made.task, made.base_model, format, tmp_path / format, budget=made.budget)
        assert [(one.setting, one.value) for one in exported.not_carried] == [
            ("peft_method", "ia3"),
            ("lr_multiplier", 8.0),
        ]
        config = yaml.safe_load((exported.folder / "config.yaml").read_text(encoding="utf-8"))
        assert config["learning_rate"] == pytest.approx(made.base_model.reference_lr, rel=1e-5)
        readme = (exported.folder / "README.md").read_text(encoding="utf-8")
        assert "- `peft_method: ia3`: " in readme
        assert "| lr_multiplier | 8.0 | not carried |" in readme


def test_axolotl_has_no_label_smoothing(recipe_of: Callable[..., Recipe]) -> None:
    lost = FORMATS["axolotl"](recipe_of(label_smoothing=0.05)).not_carried
    assert [(one.setting, one.value) for one in lost] == [("label_smoothing", 0.05)]


# --- the values in the configurations -----------------------------------------------------------------------------


def config_of(format: str, made: Recipe) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(FORMATS[format](made).files["config.yaml"])
    return config


def test_the_values_of_llama_factory(recipe_of: Callable[..., Recipe]) -> None:
    values = {"lora_rank": 8, "alpha_per_rank": 0.5, "lora_plus_ratio": 8, "lr_multiplier": 0.5, "batch_size": 64}
    made = recipe_of(peft_method="rslora", lr_schedule="constant", loss_on="full", neftune_alpha=5, **values)
    config = config_of("llama-factory", made)
    assert (config["lora_rank"], config["lora_alpha"], config["use_rslora"], config["use_dora"]) == (8, 4, True, False)
    assert (config["loraplus_lr_ratio"], config["neftune_noise_alpha"]) == (8, 5)
    assert config["learning_rate"] == pytest.approx(0.5 * made.base_model.reference_lr, rel=1e-5)
    assert config["per_device_train_batch_size"] * config["gradient_accumulation_steps"] == 64
    assert config["lr_scheduler_type"] == "constant_with_warmup"  # theirs without it has no warmup
    assert config["warmup_steps"] == 3  # 400 examples make 7 steps an epoch: a tenth of 21 steps, rounded up
    assert (config["train_on_prompt"], config["mask_history"]) == (True, False)  # both at once are refused
    assert config["num_train_epochs"] == made.budget.epochs
    assert config["template"] is None


def test_the_values_of_axolotl(recipe_of: Callable[..., Recipe]) -> None:
    values = {"lora_rank": 8, "alpha_per_rank": 4, "lora_plus_ratio": 8, "batch_size": 4, "warmup_ratio": 0.2}
    made = recipe_of(peft_method="dora", lr_schedule="linear", adam_beta2=0.95, adapted_layers="lower_half", **values)
    config = config_of("axolotl", made)
    assert (config["adapter"], config["lora_r"], config["lora_alpha"]) == ("lora", 8, 32)
    assert (config["peft_use_dora"], config["peft_use_rslora"]) == (True, False)
    assert (config["peft_layers_to_transform"], config["peft_layers_pattern"]) == ([0, 1], ["layers"])
    assert (config["loraplus_lr_ratio"], config["adam_beta2"], config["warmup_ratio"]) == (8, 0.95, 0.2)
    assert (config["micro_batch_size"], config["gradient_accumulation_steps"]) == (4, 1)
    assert "neftune_noise_alpha" not in config  # it refuses 0
    assert config["val_set_size"] == 0
    assert config["test_datasets"][0]["path"] == "data/validation.jsonl"
    full = config_of("axolotl", recipe_of(loss_on="full"))
    assert full["train_on_inputs"]
    assert "message_field_training" not in full["datasets"][0]  # it would overrule train_on_inputs


def test_dora_s_magnitudes_are_told_apart_where_the_tools_do_not(recipe_of: Callable[..., Recipe]) -> None:
    made = recipe_of(peft_method="dora", weight_decay=0.1, lora_plus_ratio=4)
    for format in ("llama-factory", "axolotl"):
        assert sum("magnitudes" in note for note in FORMATS[format](made).notes) == 2
    assert not any("magnitudes" in note for note in FORMATS["trl"](made).notes)  # its script has the groups


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft 0.21 asks transformers 5
@pytest.mark.parametrize("layers", ["all", "lower_half", "upper_half"])
@pytest.mark.parametrize("modules", ["attention", "mlp", "all"])
def test_their_lora_sits_where_ours_does(
    layers: str, modules: str, recipe_of: Callable[..., Recipe], loaded: LoadedModel
) -> None:
    """As their code hands the configuration to PEFT."""
    made = recipe_of(adapted_layers=layers, target_modules=modules)
    ours = adapted_modules(loaded, adapters.adapter_config(settings_of(made.pipeline), loaded.model.config))
    factory, axolotl = config_of("llama-factory", made), config_of("axolotl", made)
    theirs = [
        peft.LoraConfig(target_modules=factory["lora_target"].split(",")),
        peft.LoraConfig(
            target_modules=axolotl["lora_target_modules"],
            layers_to_transform=axolotl.get("peft_layers_to_transform"),
            layers_pattern=axolotl.get("peft_layers_pattern"),
        ),
        peft.LoraConfig(**made.adapter.arguments),
    ]
    for config in theirs:
        assert adapted_modules(loaded, config) == ours
    assert len(ours) == {"all": 5, "lower_half": 2, "upper_half": 3}[layers] * (4 if modules == "all" else 2)


@pytest.fixture(scope="module")
def loaded(micro: BaseModelInfo) -> LoadedModel:
    return load(micro)


def adapted_modules(base: LoadedModel, config: peft.PeftConfig) -> set[str]:
    adapted = adapters.attach(base.model, config)
    names = {name.split(".lora_A")[0] for name in adapters.trainable(adapted) if "lora_A" in name}
    adapters.detach(adapted)
    return names


def test_the_end_of_a_turn_is_named_where_it_is_not_the_end_of_text(
    pipeline_of: Callable[..., Pipeline], recipe_of: Callable[..., Recipe], space: Space, tmp_path: Path
) -> None:
    tiny = resolve(str(make_model(tmp_path / "tiny")))
    made = recipe(pipeline_of(), make_task(), tiny, space.budget(), 0)
    assert config_of("axolotl", made)["eot_tokens"] == ["<|end|>"]
    assert "eot_tokens" not in config_of("axolotl", recipe_of())
    assert config_of("axolotl", made)["base_model"] == str(tmp_path / "tiny")


# --- data -------------------------------------------------------------------------------------------------------------

ODD = 'He said: "it\'s 5\\n"\n\tand {{ this }} ${that} <|end|> \u2028 é 東京 🦎'


@pytest.fixture
def odd(elements: Task) -> Task:
    """Several turns, and text that breaks what is quoted badly."""
    talk = (Message("system", ODD), Message("user", "?"), Message("assistant", "no"), Message("user", ODD))
    return replace(
        elements,
        name='../odd "name`\n$(x): é',
        train=(Example(talk, ODD, fact="a fact", seen_fact=True), *elements.train[1:]),
    )


@formats
def test_odd_text_and_names_come_back_as_they_were(
    format: str, odd: Task, pipeline_of: Callable[..., Pipeline], micro: BaseModelInfo, space: Space, tmp_path: Path
) -> None:
    import datasets

    exported = export(pipeline_of(), odd, micro, format, tmp_path / "out", budget=space.budget())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing outside
    data = next(exported.folder.rglob("train.jsonl")) if format != "ftmeta" else next(exported.folder.glob("*.jsonl"))
    read = datasets.load_dataset("json", data_files=str(data), split="train", cache_dir=str(tmp_path / "cache"))
    first = read[0]
    said = first["prompt"] + first["completion"] if format == "trl" else first["messages"]
    assert [one["content"] for one in said] == [ODD, "?", "no", ODD, ODD]
    assert [one["role"] for one in said] == ["system", "user", "assistant", "user", "assistant"]
    if format == "axolotl":
        assert [one["train"] for one in said] == [False] * 4 + [True]
    if format != "ftmeta":
        assert len(read) == len(odd.train)
    readme = (exported.folder / "README.md").read_text(encoding="utf-8")
    assert readme.splitlines()[0].startswith("# ../odd \"name' $(x): é: ")


def test_our_own_folder_is_the_same_task_and_pipeline_again(
    elements: Task, pipeline_of: Callable[..., Pipeline], micro: BaseModelInfo, space: Space, tmp_path: Path
) -> None:
    pipeline = pipeline_of(peft_method="dora", lr_multiplier=0.123456)
    exported = export(pipeline, elements, micro, "ftmeta", tmp_path / "out", budget=space.budget())
    assert exported.command.startswith(
        "ftmeta finetune elements.jsonl --pipeline pipeline.yaml --base-model phi3-micro"
    )
    assert load_pipeline(exported.folder / "pipeline.yaml", space) == pipeline
    task = load_task(exported.folder / "elements.jsonl")
    assert (task.name, task.splits) == (elements.name, elements.splits)


def test_a_budget_of_its_own_is_cut_in_the_data_or_named(
    elements: Task, pipeline_of: Callable[..., Pipeline], micro: BaseModelInfo, tmp_path: Path
) -> None:
    budget = Budget(epochs=2, max_train_examples=20)
    ours = export(pipeline_of(), elements, micro, "ftmeta", tmp_path / "ours", budget=budget)
    assert [(one.setting, one.value) for one in ours.not_carried] == [("epochs", 2)]
    theirs = export(pipeline_of(), elements, micro, "axolotl", tmp_path / "theirs", budget=budget)
    rows = (theirs.folder / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 20
    assert yaml.safe_load((theirs.folder / "config.yaml").read_text(encoding="utf-8"))["num_epochs"] == 2


def test_llama_factory_leaves_out_what_does_not_take_turns(
    elements: Task, pipeline_of: Callable[..., Pipeline], micro: BaseModelInfo, space: Space
) -> None:
    twice = Example((Message("user", "one"), Message("user", "two")), "three")
    task = replace(elements, train=(twice, *elements.train))
    made = FORMATS["llama-factory"](recipe(pipeline_of(), task, micro, space.budget(), 0))
    assert any("leaves out 1 examples" in note for note in made.notes)


# --- what is refused --------------------------------------------------------------------------------------------------


@formats
def test_a_pipeline_of_another_space_is_refused(
    format: str, elements: Task, micro: BaseModelInfo, space: Space, tmp_path: Path
) -> None:
    foreign = Pipeline("my-space", {"optimizer": "adam", "learning_rate": 1e-3})
    with pytest.raises(UserError, match="of the search space 'my-space', and only those of 'lora-v1' can be exported"):
        export(foreign, elements, micro, format, tmp_path / "out", budget=space.budget())
    wrong = Pipeline("lora-v1", {**space.default().values, "lora_rank": 7})
    with pytest.raises(SpaceError, match="'lora_rank' is 7; give one of 2, 4"):
        export(wrong, elements, micro, format, tmp_path / "out", budget=space.budget())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_and_an_unknown_format_are_refused(
    elements: Task, micro: BaseModelInfo, space: Space, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(UserError, match="exists already"):
        export(space.default(), elements, micro, "trl", tmp_path / "out", budget=space.budget())
    assert (tmp_path / "out" / "mine").read_text() == "keep"
    with pytest.raises(UserError, match="unknown export format 'unsloth'; choose one of ftmeta, trl, llama-factory"):
        export(space.default(), elements, micro, "unsloth", tmp_path / "new", budget=space.budget())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export(space.default(), elements, micro, "trl", tmp_path / "file" / "out", budget=space.budget())


def test_a_base_model_without_a_chat_template_is_refused(elements: Task, space: Space, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "bare")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        export(space.default(), elements, resolve(str(folder)), "axolotl", tmp_path / "out", budget=space.budget())
