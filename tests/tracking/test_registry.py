"""Selectors in a real registry: versions, aliases, promotion, and folders that are what was registered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ftmeta.cli import main
from ftmeta.errors import ConfigError, FtmetaError, UserError
from ftmeta.selector import BUNDLED, load_selector
from ftmeta.serving import sources
from ftmeta.tracking import registry
from ftmeta.tracking.packing import content_of
from ftmeta.tracking.rows import read_experiments
from tests.test_tracking import database

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*type hint:UserWarning"),  # of MLflow's own models
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTMETA_CACHE", str(tmp_path / "cache"))


def like_the_bundled_one(folder: Path, **quality: float | None) -> Path:
    """Another selector: the same surrogates with another seed and other measured quality."""
    shutil.copytree(BUNDLED, folder)
    document = json.loads((folder / "surrogates.json").read_text(encoding="utf-8"))
    document["seed"] = sum(map(ord, folder.name))
    document["quality"] |= quality
    (folder / "surrogates.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def test_a_selector_is_a_model_of_text_and_safetensors_with_a_signature(tmp_path: Path) -> None:
    from mlflow.pyfunc import load_model

    from mlflow import MlflowClient

    uri = database(tmp_path)
    made = registry.register(uri, None)
    assert made["is_new"]
    assert made["aliases"] == ["challenger"]
    files = [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    suffixes = {path.suffix or path.name for path in files}
    assert suffixes == {".json", ".md", ".py", ".safetensors", ".txt", ".yaml", "MLmodel"}

    surrogates = load_selector().surrogates
    assert made["meta_dataset"] == dict(surrogates.meta_dataset)
    assert made["quality"] == pytest.approx(dict(surrogates.quality))
    assert made["tasks"] == surrogates.tasks
    version = MlflowClient(tracking_uri=uri).get_model_version(registry.MODEL, made["version"])
    assert surrogates.meta_dataset["fingerprint"] in version.description
    assert "Kendall's tau 0.835" in version.description
    (found,) = read_experiments(uri, ["metatrain"])
    assert [parent.kind for parent in found.parents] == ["metatraining"]

    model = load_model(next(path.parent for path in files if path.name == "MLmodel").as_uri())
    features = dict(surrogates.sources[0].metafeatures)
    asked = [
        {"metafeatures": features, "base_model": "phi3-micro", "hardware": "l4", "budget_s": 20.0},
        {"metafeatures": features, "base_model": "phi3-micro"},
    ]
    answer = model.predict(asked, params={"top_k": 2})
    assert list(answer["question"]) == [0, 0, 1, 1]
    direct, _ = load_selector().recommend(features, _phi3_micro(), top_k=2, hardware="cpu-core")
    mine = answer[answer["question"] == 1]
    assert list(mine["score"]) == pytest.approx([one.score for one in direct])
    assert [json.loads(text) for text in mine["pipeline"]] == [one.pipeline.to_json() for one in direct]
    assert (answer[answer["question"] == 0]["cost_s"] <= 20.0).all()
    names = [column.name for column in model.metadata.signature.inputs.inputs]
    assert names == ["metafeatures", "base_model", "hardware", "budget_s"]
    assert [column.name for column in model.metadata.signature.outputs.inputs] == list(answer.columns)


def _phi3_micro() -> Any:
    from ftmeta.models import resolve

    return resolve("phi3-micro")


def test_the_same_selector_again_is_the_version_that_is_there(tmp_path: Path) -> None:
    uri = database(tmp_path)
    first, again = registry.register(uri, None), registry.register(uri, BUNDLED, alias="other")
    assert (again["version"], again["is_new"]) == (first["version"], False)
    assert again["aliases"] == ["challenger", "other"]
    assert len(registry.versions(uri)["versions"]) == 1


def test_a_worse_version_is_not_promoted_unless_told_to(tmp_path: Path) -> None:
    uri = database(tmp_path)
    registry.register(uri, None)
    assert registry.promote(uri, "challenger")["former_champion"] is None
    for name, quality in {
        "ranks": {"kendall_tau": 0.7},
        "likelihood": {"nll": 0.4},
        "unknown": {"kendall_tau": None},
    }.items():
        made = registry.register(uri, like_the_bundled_one(tmp_path / name, **quality))
        with pytest.raises(UserError, match="is worse than the champion, version 1"):
            registry.promote(uri, made["version"])
        assert champion(uri) == "1"
    told = registry.promote(uri, "2", even_if_worse=True)
    assert told["former_champion"] == "1"
    assert told["worse"] == ["kendall_tau 0.700 against 0.835"]
    assert champion(uri) == "2"
    better = registry.register(uri, like_the_bundled_one(tmp_path / "better", kendall_tau=0.9, nll=-1.0))
    document = registry.promote(uri, "challenger")
    assert (document["version"], document["aliases"], document["worse"]) == (better["version"], ["champion"], [])
    with pytest.raises(UserError, match=r"no version or alias 'staging'; it has 5 \(champion\), 4"):
        registry.promote(uri, "staging")


def champion(uri: str) -> str:
    (one,) = [found for found in registry.versions(uri)["versions"] if "champion" in found["aliases"]]
    return str(one["version"])


def test_what_was_fetched_needs_no_mlflow_and_an_alias_that_moves_moves_nothing(tmp_path: Path) -> None:
    uri = database(tmp_path)
    registry.register(uri, None, alias="champion")
    first = registry.fetch(uri, "models:/ftmeta-selector@champion")
    assert content_of(first.folder) == content_of(BUNDLED)
    assert first.pinned == "models:/ftmeta-selector/1"
    registry.register(uri, like_the_bundled_one(tmp_path / "next"), alias="champion")
    assert registry.fetch(uri, "models:/ftmeta-selector@champion").version == "2"
    shutil.move(tmp_path / "mlflow.db", tmp_path / "gone.db")
    assert registry.fetch(uri, first.pinned).folder == first.folder
    with pytest.raises(FtmetaError, match="does not answer as it should"):
        registry.fetch("http://127.0.0.1:9", "models:/ftmeta-selector@champion")


def test_files_that_are_not_those_that_were_registered_are_refused(tmp_path: Path) -> None:
    uri = database(tmp_path)
    registry.register(uri, None, alias="champion")
    (arrays,) = (tmp_path / "artifacts").rglob("arrays.safetensors")
    content = bytearray(arrays.read_bytes())
    content[-1] ^= 1
    arrays.write_bytes(bytes(content))
    with pytest.raises(UserError, match="are not those that were registered"):
        registry.fetch(uri, "models:/ftmeta-selector@champion")
    arrays.write_bytes(b"torn")
    with pytest.raises(UserError, match="are broken"):
        registry.fetch(uri, "models:/ftmeta-selector@champion")
    assert not list((tmp_path / "cache").rglob("surrogates.json"))


@pytest.mark.parametrize("reference", ["models:/", "models:/x", "models:/x@", "models:/x/latest", "models:/x/1@y"])
def test_a_reference_that_names_nothing_is_refused(tmp_path: Path, reference: str) -> None:
    with pytest.raises(UserError, match="is no model of a registry; write models:/ftmeta-selector@champion"):
        registry.fetch(database(tmp_path), reference)


def test_what_is_not_registered_is_said_with_what_is(tmp_path: Path) -> None:
    uri = database(tmp_path)
    with pytest.raises(UserError, match="no alias 'champion'; it has nothing registered"):
        registry.fetch(uri, "models:/ftmeta-selector@champion")
    with pytest.raises(UserError, match="register one with: ftmeta registry register"):
        registry.promote(uri, "1")
    registry.register(uri, None)
    with pytest.raises(UserError, match=r"no version 7; it has 1 \(challenger\)"):
        registry.fetch(uri, "models:/ftmeta-selector/7")
    with pytest.raises(UserError, match="holds no surrogates"):
        registry.register(uri, tmp_path)


def test_sources_of_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = database(tmp_path)
    registry.register(uri, None, alias="champion")
    pinned, alias = sources.pinned("models:/ftmeta-selector@champion", uri)
    assert (pinned, alias) == ("models:/ftmeta-selector/1", "champion")
    loaded = sources.load(pinned, uri, alias)
    assert loaded.registered is not None
    assert loaded.registered.to_json() == {"name": "ftmeta-selector", "version": "1", "alias": "champion"}
    assert loaded.selector.version == load_selector().version
    assert sources.load(str(BUNDLED)).registered is None
    assert sources.pinned(None) == (None, None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="set MLFLOW_TRACKING_URI"):
        sources.load("models:/ftmeta-selector@champion")


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")

    def said(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr("sys.argv", ["ftmeta", "registry", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    assert json.loads(said("register", "--json")[1])["reference"] == "models:/ftmeta-selector/1"
    code, out, _ = said("promote", "challenger")
    assert code == 0
    assert "version 1 of ftmeta-selector is the champion" in out
    worse = like_the_bundled_one(tmp_path / "worse", kendall_tau=0.1)
    assert said("register", str(worse), "--alias", "none")[0] == 0
    code, out, err = said("promote", "2")
    assert (code, out) == (2, "")
    assert "--even-if-worse promotes it all the same" in err
    listed = json.loads(said("list", "--json")[1])["versions"]
    assert [(one["version"], one["aliases"]) for one in listed] == [("2", []), ("1", ["champion"])]
    assert "collect-spine" in said("list")[1]
