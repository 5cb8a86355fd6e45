"""`spooftrace publish`: models and datasets from the command line, and one line for everything that fails."""

import json
from pathlib import Path

import pytest
from conftest import TINY_GRAPH, lively
from small_hub import READ, small_hub
from tiny_runs import tiny_folder
from tiny_training import write_encoder, write_own_corpus

from spooftrace.cli import main
from spooftrace.modeling import AasistFeatureExtractor, AasistForAudioClassification


ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with small_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "mine")


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_model_is_published_and_said_to_load_elsewhere(server, model):
    done = server.spooftrace("publish", model, "alice/mine", "--license", "apache-2.0", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["class"] == "transformers_modules.AasistForAudioClassification"
    assert result["commit"] == server.head("alice/mine") and len(server.titles("alice/mine", kind="model")) == 2
    assert "no evaluation lies beside the model" in done.stderr


def test_a_dry_run_shows_everything_and_without_a_token_asks_nobody(server, model, tmp_path):
    before = len(server.requests)
    done = server.spooftrace("publish", model, "alice/dry", "--dry-run", "--staging", tmp_path / "kept", token=None)
    assert done.returncode == 0, done.stderr
    for words in ("model.safetensors", "modeling_aasist.py", " bytes", "on the Hub: not known", "## Intended use"):
        assert words in done.stdout, words
    assert "the push would fail now: no token for the Hub: run `hf auth login`" in done.stderr
    assert len(server.requests) == before and (tmp_path / "kept" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("variables", "there", "words"),
    [
        ({}, "on the Hub: alice/dry would be made, by alice", "warning: no licence"),
        (
            {"token": READ},
            "on the Hub: alice/dry would be made, by alice",
            "the push would fail now: the token of alice may only",
        ),
        (
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            "on the Hub: not known",
            "the Hub at http://127.0.0.1:9 cannot be reached",
        ),
    ],
    ids=["fine", "read-only token", "down"],
)
def test_a_dry_run_tells_who_would_push_and_whether_the_hub_would_take_it(server, model, variables, there, words):
    done = server.spooftrace("publish", model, "alice/dry", "--dry-run", **variables)
    assert done.returncode == 0 and there in done.stdout and words in done.stderr, done.stderr
    assert server.store.find("model", "alice/dry") is None


def refusals(tmp_path: Path) -> dict[str, tuple[list, dict, str]]:
    """Name -> arguments behind the folder, environment, and what is said."""
    return {
        "no token": (["alice/x"], {"token": None}, "no token for the Hub"),
        "read-only token": (["alice/x"], {"token": READ}, "may only read"),
        "wrong token": (["alice/x"], {"token": "hf_nobody"}, "does not know this token"),
        "wrong namespace": (["bob/x"], {}, "alice may not write to bob/x"),
        "no owner": (["mine"], {}, "write owner/name"),
        "offline": (["alice/x"], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        "down": (["alice/x", "--attempts", "1"], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
        "staging in use": (["alice/x", "--staging", str(ROOT)], {}, "holds something already"),
    }


@pytest.mark.parametrize("name", list(refusals(Path())))
def test_what_goes_wrong_is_one_line_and_a_failure(server, model, tmp_path, name):
    arguments, variables, words = refusals(tmp_path)[name]
    done = server.spooftrace("publish", model, *arguments, "--no-check", TMPDIR=str(tmp_path), **variables)
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("spooftrace: warning")]
    assert done.returncode == 1 and len(lines) == 1 and words in lines[0], done.stderr
    assert server.store.find("model", "alice/x") is None


def test_a_gated_encoder_is_said_before_anything_is_pushed(server, tmp_path):
    encoder, folder = write_encoder(tmp_path / "encoder"), tmp_path / "adapters"
    detector = AasistForAudioClassification.from_wav2vec2_pretrained(encoder, lora={"r": 2}, **TINY_GRAPH)
    lively(detector).save_pretrained(folder)
    AasistFeatureExtractor().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["lora"] |= {"base_model_name_or_path": "alice/gated", "base_revision": "main"}
    (folder / "config.json").write_text(json.dumps(config))
    server.seed("alice/gated", encoder)
    server.fail(" /alice/gated/resolve", 403, times=50, **{"X-Error-Code": "GatedRepo"})
    done = server.spooftrace("publish", folder, "alice/x")
    assert done.returncode == 1 and "it was not pushed" in done.stderr, done.stderr
    assert (
        f"the encoder alice/gated is gated for this token: ask for access at {server.url}/alice/gated" in done.stderr
    )
    assert server.store.find("model", "alice/x") is None


def test_options_of_models_are_refused_elsewhere(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["publish", "--type", "metric", "eer", "alice/eer", "--card"])
    assert ending.value.code == 2 and "belong to models" in capsys.readouterr().err


# --- datasets --------------------------------------------------------------------------------------------------------


def test_a_build_of_a_corpus_is_published_and_a_folder_is_not(server, tmp_path, capsys):
    pytest.importorskip("datasets")
    from spooftrace.data_scripts.publish import MANIFEST

    corpus, build = write_own_corpus(tmp_path / "corpus"), tmp_path / "build"
    source = [str(corpus / "manifest.csv"), "--out", str(build)]
    assert main(["corpus", "build", "own", *source, "--license", "cc-by-4.0", "--title", "Mine"]) == 0
    done = server.spooftrace("publish", "--type", "dataset", build, "alice/data", "--message", "clips")
    assert done.returncode == 0, done.stderr
    assert "read back from the Hub" in done.stdout and len(server.titles("alice/data", kind="dataset")) == 2
    assert any(name.endswith(".parquet") for name in server.files("alice/data", kind="dataset"))
    capsys.readouterr()
    for text in (None, "{}", "[]"):
        if text is not None:
            (corpus / MANIFEST).write_text(text)
        assert main(["publish", "--type", "dataset", str(corpus), "alice/data"]) == 1
        assert "spooftrace corpus push" in capsys.readouterr().err
