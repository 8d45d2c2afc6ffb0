"""Search spaces: the bundled one, files with mistakes, samples, encodings and pipelines as YAML."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftmeta.errors import SpaceError
from ftmeta.space import NAMED_PIPELINES, load_pipeline, load_space, named_pipelines, parse_space, pipeline_yaml

SPACE = load_space("lora-v1")
FOREIGN = parse_space(
    """
name: foreign
max_fidelity: 4
hyperparameters:
  learning_rate: {type: float, low: 1.0e-6, high: 1.0e-2, log: true, default: 1.0e-4}
  depth: {type: int, low: 1, high: 9, default: 3}
  momentum: {type: float, low: 0.0, high: 1.0, default: 0.9}
""",
    "foreign",
)


def test_the_default_of_the_space_is_the_strong_default() -> None:
    assert SPACE.default() == load_pipeline("strong-default", SPACE)


def test_named_pipelines_fit_the_space_and_differ() -> None:
    pipelines = named_pipelines(SPACE)
    assert set(pipelines) == set(NAMED_PIPELINES)
    assert len({pipeline.id for pipeline in pipelines.values()}) == len(NAMED_PIPELINES)
    assert named_pipelines(FOREIGN) == {}


def test_a_sample_is_distinct_valid_and_the_same_for_the_same_seed() -> None:
    sample = SPACE.sample(225, seed=3)
    assert len({pipeline.id for pipeline in sample}) == 225
    assert sample == SPACE.sample(225, seed=3)
    assert sample != SPACE.sample(225, seed=4)
    assert [pipeline.id for pipeline in SPACE.sample(32, seed=3)] == [pipeline.id for pipeline in sample[:32]]
    for pipeline in sample:
        assert SPACE.validate(pipeline.values) == pipeline


def test_a_sample_covers_every_choice_evenly() -> None:
    sample = SPACE.sample(256, seed=0)
    for method in ("lora", "rslora", "dora", "ia3"):
        assert sum(pipeline["peft_method"] == method for pipeline in sample) == pytest.approx(64, abs=2)
    logs = np.log10([pipeline["lr_multiplier"] for pipeline in sample])
    assert np.mean(logs < -0.5) == pytest.approx(0.5, abs=0.02)


def test_a_sample_larger_than_the_space_is_refused() -> None:
    small = parse_space(
        "{name: s, max_fidelity: 1, hyperparameters: {a: {type: ordinal, values: [1, 2], default: 1}}}", "s"
    )
    assert len(small.sample(2, seed=0)) == 2
    with pytest.raises(SpaceError, match="only 2 distinct pipelines, and 3"):
        small.sample(3, seed=0)


def test_inactive_hyperparameters_are_left_out() -> None:
    ia3 = next(pipeline for pipeline in SPACE.sample(16, seed=0) if pipeline["peft_method"] == "ia3")
    assert "lora_rank" not in ia3.values
    with pytest.raises(SpaceError, match=r"'lora_rank' is given, but it is active only with peft_method in"):
        SPACE.validate({**ia3.values, "lora_rank": 8})


def test_encoding_is_between_0_and_1_and_names_its_columns() -> None:
    X_NF, columns = SPACE.encode(SPACE.sample(64, seed=1))
    assert X_NF.shape == (64, len(columns))
    assert X_NF.dtype == np.float32
    assert X_NF.min() >= 0
    assert X_NF.max() <= 1
    assert X_NF[:, [columns.index(f"peft_method={m}") for m in ("lora", "rslora", "dora", "ia3")]].sum() == 64


def test_an_inactive_value_carries_no_information_of_its_own() -> None:
    values = {
        name: value for name, value in SPACE.default().values.items() if "lora" not in name and name != "alpha_per_rank"
    }
    X_NF, columns = SPACE.encode([SPACE.default(), SPACE.validate({**values, "peft_method": "ia3"})])
    rank, active = columns.index("lora_rank"), columns.index("lora_rank:active")
    assert X_NF[0, rank] == X_NF[1, rank]
    assert list(X_NF[:, active]) == [1.0, 0.0]


def test_encoding_nothing_gives_an_empty_matrix() -> None:
    X_NF, _ = SPACE.encode([])
    assert len(X_NF) == 0


def test_all_mistakes_of_a_pipeline_are_named_at_once() -> None:
    values = {**SPACE.default().values, "lora_rnk": 4, "peft_method": "lorra", "batch_size": 5, "weight_decay": True}
    with pytest.raises(SpaceError) as caught:
        SPACE.validate(values)
    for part in (
        "did you mean 'lora_rank'",
        "'lorra'; give one of dora, ia3, lora, rslora",
        "'batch_size' is 5",
        "'weight_decay' is True",
    ):
        assert part in str(caught.value)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), n=st.integers(1, 8))
def test_pipelines_survive_yaml(tmp_path_factory: pytest.TempPathFactory, seed: int, n: int) -> None:
    path = tmp_path_factory.mktemp("pipelines") / "p.yaml"
    for pipeline in SPACE.sample(n, seed):
        path.write_text(pipeline_yaml(pipeline), encoding="utf-8")
        assert load_pipeline(path, SPACE).id == pipeline.id


@settings(max_examples=30, deadline=None)
@given(unit=st.floats(0, 1))
def test_numbers_stay_within_their_bounds(unit: float) -> None:
    for domain in FOREIGN.domains.values():
        assert domain.contains(domain.at(unit))
        (coordinate,) = domain.coordinates(domain.at(unit))
        assert 0 <= coordinate <= 1


def test_whole_numbers_take_the_declared_type() -> None:
    values = {"learning_rate": 1e-4, "depth": 3.0, "momentum": 1}
    assert dict(FOREIGN.validate(values).values) == {"learning_rate": 1e-4, "depth": 3, "momentum": 1.0}
    assert isinstance(FOREIGN.validate(values)["depth"], int)
    with pytest.raises(SpaceError, match="a whole number from 1 to 9"):
        FOREIGN.validate({**values, "depth": 3.5})


def test_configspace_speaks_of_the_same_pipelines() -> None:
    configspace = SPACE.configspace()
    configspace.seed(0)
    for configuration in configspace.sample_configuration(20):
        values = {name: getattr(value, "item", lambda v=value: v)() for name, value in configuration.items()}
        assert set(SPACE.validate(values).values) == set(values)
    default = dict(configspace.get_default_configuration())
    assert SPACE.validate({name: getattr(v, "item", lambda v=v: v)() for name, v in default.items()}) == SPACE.default()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not YAML"),
        ("", "the file"),
        ("{name: x, max_fidelity: 0, hyperparameters: {}}", "max_fidelity"),
        ("{name: x, max_fidelity: 1, hyperparameters: {a: {type: weird}}}", "hyperparameters.a"),
        (
            "{name: x, max_fidelity: 1, hyperparameters: {a: {type: ordinal, values: [1], default: 2}}}",
            "default 2 is not one of 1",
        ),
        (
            "{name: x, max_fidelity: 1, hyperparameters: {a: {type: float, low: 2, high: 1, default: 1}}}",
            "low must be below high",
        ),
        (
            "{name: x, max_fidelity: 1, hyperparameters: {a: {type: float, low: 0, high: 1, log: true, default: 1}}}",
            "above 0",
        ),
        (
            "{name: x, max_fidelity: 1, hyperparameters: "
            "{a: {type: int, low: 0, high: 1, default: 0, when: {b: [1]}}}}",
            "no other",
        ),
    ],
)
def test_a_malformed_space_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        parse_space(text, "x.yaml")


def test_unknown_names_list_what_there_is() -> None:
    with pytest.raises(SpaceError, match="lora-v1"):
        load_space("lora-v9")
    with pytest.raises(SpaceError, match="strong-default"):
        load_pipeline("very-strong-default", SPACE)


def test_a_pipeline_of_another_space_is_refused(tmp_path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(pipeline_yaml(FOREIGN.default()), encoding="utf-8")
    with pytest.raises(SpaceError, match="is of space 'foreign', and 'lora-v1' is in use"):
        load_pipeline(path, SPACE)


def test_the_fingerprint_is_of_the_meaning_not_of_the_layout() -> None:
    assert parse_space("# a comment\n" + SPACE.yaml_text, "again").fingerprint == SPACE.fingerprint
    assert parse_space(SPACE.yaml_text.replace("high: 10.0", "high: 9.0"), "other").fingerprint != SPACE.fingerprint
