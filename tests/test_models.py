"""`spooftrace models`: what is shipped, what lies in folders, what an owner has on the Hub, and what their cards say."""

import json
from pathlib import Path

import pytest
from small_hub import small_hub
from tiny_runs import tiny_folder

from spooftrace.cli import main
from spooftrace.cli.models import _lines
from spooftrace.model_staging import shipped_models, stage_model
from spooftrace.models import from_card, list_models, model_folders


RATE = "EER 15.85 % on corpus.csv, split test (251 bona fide, 260 spoof)"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """alice has a detector with an evaluation, a private tracer, and models of other kinds."""
    root = tmp_path_factory.mktemp("models")
    tracer = tiny_folder(root / "tracer", tasks=["vq"])
    for folder, source in (("card", "default"), ("tracer-card", tracer)):
        (root / folder).mkdir()
        stage_model(source, f"alice/{folder}", root / folder)
    card = (root / "card" / "README.md").read_bytes()
    with small_hub(root / "hub") as hub:
        hub.seed("alice/detector", {"README.md": card})
        hub.seed("alice/tracer", {"README.md": (root / "tracer-card" / "README.md").read_bytes()}, private=True)
        hub.seed("alice/odd", {"README.md": b"---\ntags: [spooftrace]\nspooftrace: yes\nmodel-index: 3\n---\n"})
        hub.seed("alice/other", {"README.md": b"---\ntags: [speech]\n---\n"})
        hub.seed("bob/detector", {"README.md": card})
        yield hub


def test_what_is_shipped_is_listed_with_its_error_rate(capsys):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "default  (shipped with spooftrace)" in text and RATE in text
    assert "licence: apache-2.0" in text and "tasks: bin" in text and "LibriSpeech" in text


def test_models_in_folders_are_listed_and_checkpoints_are_not(tmp_path, capsys):
    tiny_folder(tmp_path / "runs" / "mine")
    tiny_folder(tmp_path / "runs" / "tracer", tasks=["vq", "dec"])
    tiny_folder(tmp_path / "runs" / "checkpoint-7")
    assert main(["models", "--dir", str(tmp_path / "runs"), "--json"]) == 0
    found = [model for model in json.loads(capsys.readouterr().out) if model["place"] == "folder"]
    assert [Path(model["name"]).name for model in found] == ["mine", "tracer"]
    assert found[1]["tasks"] == ["vq", "dec"] and found[0]["rates"] == [] and found[0]["license"] is None
    assert model_folders(tmp_path / "runs" / "mine") == [tmp_path / "runs" / "mine"]


def test_a_model_that_cannot_be_read_is_told_and_the_others_are_listed(tmp_path, capsys):
    tiny_folder(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("{")
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"")
    assert main(["models", "--dir", str(tmp_path)]) == 3
    text = capsys.readouterr().out
    assert "not readable" in text and "config.json is not valid JSON" in text and "good" in text
    assert main(["models", "--dir", str(tmp_path / "nothing")]) == 1
    assert "holds no model" in capsys.readouterr().err


def test_models_on_the_hub_are_those_with_the_tag_and_their_cards_are_read(server):
    done = server.spooftrace("models", "--org", "alice", "--json", token=None)
    assert done.returncode == 0, done.stderr
    found = {model["name"]: model for model in json.loads(done.stdout) if model["place"] == "hub"}
    assert sorted(found) == ["alice/detector", "alice/odd"]  # the tracer is private
    detector = found["alice/detector"]
    assert (detector["family"], detector["tasks"], detector["license"]) == ("aasist", ["bin"], "apache-2.0")
    expected = {"data": "corpus.csv, split test", "bonafide": 251, "spoof": 260, "eer_percent": 15.8527}
    assert detector["rates"] == [expected] and detector["revision"] == server.head("alice/detector")
    assert found["alice/odd"]["family"] is None and found["alice/odd"]["rates"] == []


def test_the_owner_sees_private_models_too(server):
    done = server.spooftrace("models", "--org", "alice")
    assert "alice/tracer  (Hub, " in done.stdout and "tasks: vq" in done.stdout and "no EER stated" in done.stdout
    assert RATE in done.stdout and "default  (shipped" in done.stdout


def test_a_hub_that_cannot_be_asked_is_one_line(server):
    server.fail("GET /api/models", 403)
    for variables, words in (
        ({}, "does not list the models of alice"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ):
        done = server.spooftrace("models", "--org", "alice", **variables)
        assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1 and words in done.stderr, (
            done.stderr
        )


def test_an_owner_without_models_is_said(server):
    done = server.spooftrace("models", "--org", "carol")
    assert done.returncode == 0 and "carol has no model with the tag `spooftrace`" in done.stdout


def test_the_shipped_ones_are_known_by_name():
    assert {model.name for model in list_models()} == set(shipped_models()) >= {"default"}


def test_a_model_without_a_card_is_listed():
    assert from_card("alice/bare", "1234567", None).problem == "it has no card"


class _Card:
    def __init__(self, data: dict):
        self._data = data

    def to_dict(self) -> dict:
        return self._data


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "3", None])
def test_whatever_a_card_holds_it_can_be_listed(value):
    metrics = [{"type": "eer", "value": value}, {"type": "eer", "value": 3, "args": {"bonafide": value}}]
    own = {"family": 3, "tasks": [value]}
    data = {"spooftrace": own, "license": [1], "base_model": [value], "training_corpora": value}
    model = from_card("alice/odd", "1234567", _Card({**data, "model-index": [{"results": [{"metrics": metrics}]}]}))
    assert [rate.eer_percent for rate in model.rates] == [3.0] and model.family is None
    json.dumps(model.to_dict(), allow_nan=False)
    assert "EER 3.00 % on unnamed data" in "\n".join(_lines(model))
