"""Base models: names, folders, hub ids, fingerprints, and what is said when one cannot be had."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import BPE

from ftmeta import models
from ftmeta.errors import MissingDependencyError, ModelError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of a few thousand parameters with tied embeddings, a tokenizer without merges, and a chat template."""
    path = tmp_path_factory.mktemp("tiny-llama")
    config = transformers.LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    vocabulary = {chr(97 + index): index for index in range(14)} | {"<|end|>": 14, "<|user|>": 15}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        chat_template="{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}",
    ).save_pretrained(path)
    return path


def test_a_folder_is_described_from_its_headers(folder: Path) -> None:
    info = models.resolve(str(folder))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert info.shape.parameters == model.num_parameters()
    assert (info.shape.hidden_size, info.shape.layers, info.shape.vocab_size) == (8, 3, 16)
    assert (info.shape.intermediate_size, info.shape.context_length) == (12, 64)
    assert info.licence == "unknown"
    assert info.reference_lr == models.reference_lr(8)


def test_describing_imports_neither_torch_nor_transformers(folder: Path) -> None:
    code = (
        "import sys; from ftmeta import models; info = models.resolve(sys.argv[1]); models.fast_tokenizer(info)\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_sharded_weights_and_the_card(folder: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nA model.\n", encoding="utf-8")
    info = models.resolve(str(tmp_path))
    assert info.shape.parameters == model.num_parameters()
    assert info.licence == "mit"
    assert info.fingerprint != models.resolve(str(folder)).fingerprint


def test_the_fingerprint_follows_weights_and_tokenizer(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    before = models.resolve(str(tmp_path)).fingerprint
    assert before == models.resolve(str(folder)).fingerprint
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert models.resolve(str(tmp_path)).fingerprint != before


def test_reference_learning_rates() -> None:
    rates = [models.reference_lr(hidden) for hidden in (128, 576, 2000, 3072)]
    assert rates == pytest.approx([4.27e-3, 1.32e-3, 5e-4, 3.58e-4], rel=5e-3)


def test_unknown_names_get_close_matches() -> None:
    with pytest.raises(ModelError, match="unknown base model 'phi3-mikro'; did you mean phi3-micro"):
        models.resolve("phi3-mikro")
    with pytest.raises(ModelError, match="known: phi3-micro, smollm2-135m; otherwise give a folder or a hub id"):
        models.resolve("zzzz")


def test_a_hub_model_out_of_reach(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom ftmeta import models\nfrom ftmeta.errors import ModelError\n"
        "try:\n    models.resolve('nobody/no-such-model')\nexcept ModelError as error:\n    print(error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "'nobody/no-such-model' is not in the local hub cache and the hub is out of reach" in done.stdout
    assert "give its folder" in done.stdout


def test_smollm2_not_fetched_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTMETA_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="not on this machine; fetch it with: ftmeta models fetch smollm2-135m"):
        models.resolve("smollm2-135m")
    rows = {row["name"]: row for row in models.list_base_models()}
    assert rows["smollm2-135m"]["path"] is None
    assert rows["smollm2-135m"]["hidden_size"] == 576


def test_without_gguf_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTMETA_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingDependencyError, match="gguf; install it with: pip install gguf"):
        models.fetch("smollm2-135m")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "config.json").unlink(), "is no base model: it has no config.json"),
        (lambda path: (path / "config.json").write_text("{"), "is not JSON"),
        (
            lambda path: (path / "config.json").write_text('{"model_type": "t5"}'),
            "the architecture is None, wanted one",
        ),
        (lambda path: _change_config(path, architectures=["T5ForConditionalGeneration"]), "T5ForConditionalGeneration"),
        (lambda path: _change_config(path, hidden_size=None), "'hidden_size' is None"),
        (lambda path: (path / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda path: (path / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda path: (path / "model.safetensors").write_bytes(b"\xff" * 100), "is torn"),
        (lambda path: (path / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"no"), "is damaged"),
        (lambda path: (path / "model.safetensors.index.json").write_text("[]"), "is damaged"),
    ],
)
def test_broken_folders(folder: Path, tmp_path: Path, spoil: object, message: str) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    spoil(tmp_path)  # type: ignore[operator]
    with pytest.raises(ModelError, match=message):
        models.resolve(str(tmp_path))


def _change_config(path: Path, **changes: object) -> None:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")


def test_the_hub_cache_is_listed_without_what_is_damaged_or_outdated(folder: Path, tmp_path: Path) -> None:
    def cached(name: str, *commits: str) -> Path:
        """A model as the hub's client keeps it, `commits` in the order they were fetched in."""
        place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        for commit in commits:
            shutil.copytree(folder, place / "snapshots" / commit)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(commits[-1])
        return place / "snapshots" / commits[-1]

    newest = cached("org/good", "b" * 40, "a" * 40)
    (cached("org/torn", "c" * 40) / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"no")
    (cached("org/lost", "d" * 40) / "config.json").unlink()
    _change_config(cached("org/masked", "e" * 40), architectures=["BertForMaskedLM"])
    code = (
        "import json; from ftmeta import models; print(json.dumps([(row['name'], row['path']) for row in "
        "models.list_base_models() if '/' in row['name']])); assert models.models_here()[-1].fingerprint == ''"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert json.loads(done.stdout) == [["org/good", str(newest)]]


def test_a_broken_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"):
        models.fast_tokenizer(models.resolve(str(tmp_path / "model")))


def test_loading(folder: Path, tmp_path: Path) -> None:
    loaded = models.load(models.resolve(str(folder)))
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.model.dtype == torch.float32
    assert models.load(loaded.info, dtype="bfloat16").model.dtype == torch.bfloat16
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="torch finds 0 CUDA devices"):
            models.load(loaded.info, device="cuda")
    for file in folder.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config.pop("chat_template", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match="has no chat template"):
        models.load(models.resolve(str(tmp_path)))
