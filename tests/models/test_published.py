"""Base models that are not on this machine: recommended for by their published sizes, and never mistaken for others."""

from __future__ import annotations

import pytest

from ftmeta.errors import ModelError
from ftmeta.models import known_architectures, load, models_known, note_on, resolve, resolve_or_published
from ftmeta.models.published import published
from ftmeta.recommend import recommend_for_task

MINI = "microsoft/Phi-3-mini-4k-instruct"
# The rates that people publish for LoRA on it (docs/selector.md), from LLaMA-Factory's to the Tinker cookbook's.
LEAST, MOST = 1e-4, 4.8e-4


def test_the_published_sizes_are_those_of_the_card() -> None:
    info = published(MINI)
    assert (info.shape.parameters, info.shape.hidden_size, info.shape.layers) == (3_821_079_552, 3072, 32)
    assert info.licence == "MIT"
    assert not info.is_here
    assert 3e-4 < info.reference_lr < 4e-4


def test_a_model_that_is_here_is_itself_and_others_are_not_guessed_at() -> None:
    assert resolve_or_published("phi3-micro") == resolve("phi3-micro")
    assert note_on(resolve("phi3-micro")) == []
    with pytest.raises(ModelError, match="unknown base model"):
        resolve_or_published("phi9")
    with pytest.raises(ModelError, match="is not known; known: microsoft"):
        published("microsoft/other")


def test_what_is_known_has_each_model_once() -> None:
    names = [info.name for info in models_known()]
    assert len(names) == len(set(names))
    assert {"phi3-micro", *known_architectures()} <= set(names)


def test_it_cannot_be_loaded_and_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=f"'{MINI}' is not on this machine; fetch it with: ftmeta models fetch {MINI}"):
        load(published(MINI))


@pytest.mark.parametrize("task", ["elements", "history", "python-stdlib"])
def test_the_rates_for_phi3_mini_are_those_that_people_publish(task: str) -> None:
    """Through the reference rate alone: no source run is of this model, and the answer says so."""
    document = recommend_for_task(task, base_model=MINI, hardware="h100-80gb", top_k=3)
    for one in document["recommendations"]:
        assert LEAST <= one["learning_rate"] <= MOST
        assert one["cost_s"] > 0
    said = " ".join(document["warnings"])
    assert "sizes are the published ones, and tokens are counted with phi3-micro's tokenizer" in said
    assert f"no source run finetuned {MINI}" in said
