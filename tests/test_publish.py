"""Publishing a model: what is pushed, what is refused, one commit whatever the Hub does, and that a stranger can load it."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import warm_python
import yaml
from conftest import TINY_GRAPH, lively
from small_hub import READ, SmallHub, small_hub
from tiny_runs import tiny_folder
from tiny_sastnet import tiny_sastnet
from tiny_training import write_encoder

from spooftrace.arena import Dataset, System, write_arena
from spooftrace.model_card import make_card
from spooftrace.model_facts import read_facts, split_card
from spooftrace.model_staging import PublishError, shipped_models, stage_model
from spooftrace.modeling import AasistFeatureExtractor, AasistForAudioClassification, SASTNetFeatureExtractor
from spooftrace.stranger import CheckError, Loaded, reason, require_same


ROOT = Path(__file__).resolve().parent.parent
LABELS = {"a": "bonafide", "b": "bonafide", "c": "spoof", "d": "spoof"}
SCORES = {"a": 2.0, "b": 1.0, "c": -1.0, "d": 1.5}


def evaluation(folder: Path, **changes) -> dict:
    """A report on the weights of a folder, as `spooftrace evaluate --out` writes it."""
    report = json.loads((shipped_models()["default"] / "evaluation.json").read_text())
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    source = {**report["sources"][0], "data": "/home/me/data/own.csv, split test", "scores": "/home/me/scores.txt"}
    source["model"] = {**source["model"], "name": "/home/me/runs/mine", "revision": f"sha256:{digest}"}
    return {**report, "sources": [source], "comparison": None, **changes}


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def adapters_only(folder: Path, encoder: Path) -> Path:
    """A detector whose encoder is to be fetched as alice/encoder."""
    torch.manual_seed(1)
    model = AasistForAudioClassification.from_wav2vec2_pretrained(encoder, lora={"r": 2}, **TINY_GRAPH)
    lively(model).save_pretrained(folder)
    AasistFeatureExtractor(window_samples=16_000).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["lora"] |= {"base_model_name_or_path": "alice/encoder", "base_revision": "main"}
    write_json(folder / "config.json", config)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """Models of several kinds, as training and conversion leave them."""
    root = tmp_path_factory.mktemp("made")
    detector = tiny_folder(root / "detector")
    write_json(detector / "evaluation.json", evaluation(detector))
    write_json(detector / "training_result.json", {"eer": 0.1, "trials": [9, 8], "steps": 30, "best_step": 20})
    recipe = {"data": {"corpus": "asvspoof2019-la", "dir": "/data/LA"}, "trainer": "erm", "seed": 1}
    (detector / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    write_arena(
        detector, SCORES, LABELS, system=System("Mine", "mine"), dataset=Dataset("org/bench", "1234567", "test")
    )
    for name in ("checkpoint-3/model.safetensors", "training_args.bin", "optimizer.pt", "events.log"):
        (detector / name).parent.mkdir(exist_ok=True)
        (detector / name).write_bytes(b"stays here")
    encoder = write_encoder(root / "encoder")
    sastnet = tiny_sastnet(task="vq")
    sastnet.save_pretrained(root / "sastnet")
    SASTNetFeatureExtractor(window_samples=sastnet.config.window_samples).save_pretrained(root / "sastnet")
    return {
        "detector": detector,
        "encoder": encoder,
        "adapters": adapters_only(root / "adapters", encoder),
        "tracer": tiny_folder(root / "tracer", tasks=["vq", "dec"]),
        "sastnet": root / "sastnet",
    }


@pytest.fixture
def staged(made, tmp_path):
    target = tmp_path / "staged"
    target.mkdir()
    return stage_model(made["detector"], "alice/mine", target, license="apache-2.0", benchmarks=["org/bench:eer"])


# --- what is pushed --------------------------------------------------------------------------------------------------


def test_what_belongs_to_a_model_travels_and_the_rest_stays(staged):
    assert {"model.safetensors", "config.json", "modeling_aasist.py", "README.md", "recipe.yaml"} <= set(staged.files)
    assert {".eval_results/org/bench/scores.txt", ".eval_results/org/bench/result.yaml"} <= set(staged.files)
    assert staged.left_out == ["checkpoint-3/", "events.log", "optimizer.pt", "training_args.bin"]
    assert not any("checkpoint" in name or name.endswith((".bin", ".pt")) for name in staged.files)


def test_nothing_published_names_a_folder_of_this_machine(staged):
    for name in staged.files:
        if not name.endswith(".safetensors"):
            text = (staged.folder / name).read_text()
            assert "/home/me" not in text and "/data/LA" not in text, name
    report = json.loads((staged.folder / "evaluation.json").read_text())
    assert report["sources"][0]["data"] == "own.csv, split test" and report["sources"][0]["model"]["name"] == "mine"


def test_a_folder_without_code_gets_what_save_pretrained_would_have_written(made, tmp_path):
    for name in ("detector", "sastnet"):
        bare = tmp_path / name
        shutil.copytree(made[name], bare, ignore=shutil.ignore_patterns("*.py"))
        for file in ("config.json", "preprocessor_config.json"):
            values = json.loads((bare / file).read_text())
            values.pop("auto_map")
            write_json(bare / file, values)
        target = tmp_path / f"{name}-staged"
        target.mkdir()
        stage_model(bare, "alice/mine", target)
        code = {path.name: path.read_bytes() for path in made[name].glob("*.py")}
        assert code and {path.name: path.read_bytes() for path in target.glob("*.py")} == code
        for file in ("config.json", "preprocessor_config.json"):
            assert json.loads((target / file).read_text()) == json.loads((made[name] / file).read_text())


def test_code_that_is_there_is_left_as_it_is(made, tmp_path):
    folder, target = tmp_path / "own", tmp_path / "staged"
    shutil.copytree(made["detector"], folder)
    (folder / "aasist.py").write_text("# mine\n")
    target.mkdir()
    stage_model(folder, "alice/mine", target)
    assert (target / "aasist.py").read_text() == "# mine\n"


def test_the_shipped_detector_can_be_published_by_its_name(tmp_path):
    staged = stage_model("default", "alice/mine", tmp_path)
    assert {"modeling_aasist.py", "feature_extraction_aasist.py", "model.safetensors"} <= set(staged.files)
    metadata, body = split_card((tmp_path / "README.md").read_text())
    assert metadata["license"] == "apache-2.0" and "aasist" in metadata["tags"]
    assert body.startswith("# The detector that ships with spooftrace")  # its own card is kept, its metadata completed
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == 15.8527


# --- the card --------------------------------------------------------------------------------------------------------


def test_the_card_states_what_lies_in_the_folder(staged):
    metadata, body = split_card((staged.folder / "README.md").read_text())
    assert metadata["license"] == "apache-2.0" and metadata["library_name"] == "transformers"
    assert metadata["training_corpora"] == ["asvspoof2019-la"]
    for words in (
        "Trained on: asvspoof2019-la.",
        "30 steps; the best parameters are those after 20.",
        "an EER of 10.00 % on the development clips (9 bona fide, 8 spoof)",
        "| own.csv, split test | 251 | 260 | 15.85 % | 11.58 to 19.48 |",
        "| vocoder | 251 | 12 | 41.75 % | 2.95 to 68.72 |",
        "Its scores are not calibrated",
        "## Intended use and limits",
        'from_pretrained("alice/mine", trust_remote_code=True)',
    ):
        assert words in body, words


def test_results_are_in_the_forms_that_the_hub_reads(staged):
    from huggingface_hub import ModelCard, parse_eval_result_entries

    result = ModelCard.load(staged.folder / "README.md").data.eval_results[0]
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("eer", 15.8527, "own.csv, split test")
    assert result.metric_args == {"bonafide": 251, "spoof": 260, "interval": [11.5791, 19.4814]}
    entry = parse_eval_result_entries(yaml.safe_load((staged.folder / ".eval_results/bench.yaml").read_text()))[0]
    assert (entry.dataset_id, entry.task_id, entry.value) == ("org/bench", "eer", 15.8527)


def test_several_corpora_have_a_row_each(made, tmp_path):
    ends = {"low": 0.01, "high": 0.03}
    groups = [
        {"value": name, "bonafide": 10, "spoof": 20, "eer": rate, "eer_interval": ends}
        for name, rate in (("asvspoof2019-la", 0.02), ("in-the-wild", 0.3))
    ]
    report = evaluation(made["detector"], tables=[{"column": "corpus", "against": "", "groups": groups}])
    folder = tmp_path / "model"
    shutil.copytree(made["detector"], folder)
    write_json(folder / "evaluation.json", {**report, "corpora": {"number": 2, "eer": 0.16}})
    facts = read_facts(folder)
    assert [(rate.corpus, rate.eer) for rate in facts.rates()] == [("asvspoof2019-la", 0.02), ("in-the-wild", 0.3)]
    assert "| in-the-wild | 10 | 20 | 30.00 % | 1.00 to 3.00 |" in make_card(facts, "alice/mine")


def test_what_is_missing_is_said_and_not_invented(made, tmp_path):
    staged = stage_model(made["tracer"], "alice/mine", tmp_path)
    body = split_card((tmp_path / "README.md").read_text())[1]
    assert "No evaluation lies beside this model" in body and "does not say what it was trained on" in body
    assert "licence is not stated" in body and "%" not in body
    assert len(staged.warnings) == 3 and "--license" in staged.warnings[0]


def test_a_tracer_says_what_it_answers(made, tmp_path):
    stage_model(made["tracer"], "alice/mine", tmp_path)
    metadata, body = split_card((tmp_path / "README.md").read_text())
    assert "- the quantiser of the codec: `bonafide`, `mvq`, `svq`, `sq`" in body
    assert "- the decoder of the codec: `bonafide`, `time`, `frequency`" in body
    assert "spooftrace trace --model alice/mine" in body and "log-odds" not in body
    assert "source-tracing" in metadata["tags"] and metadata["spooftrace"]["tasks"] == ["vq", "dec"]


def test_a_tracer_says_what_training_came_to(made, tmp_path):
    folder, target = tmp_path / "tracer", tmp_path / "staged"
    shutil.copytree(made["tracer"], folder)
    target.mkdir()
    numbers = {"accuracy": 0.5, "macro_f1": 0.25, "trials": {"bonafide": 3, "mvq": 4}}
    write_json(folder / "training_result.json", {"steps": 30, "best_step": 20, "tasks": {"vq": numbers}})
    stage_model(folder, "alice/mine", target)
    assert "| vq | 50.00 % | 25.00 % | 7 |" in (target / "README.md").read_text()


def test_a_generated_card_is_made_anew_until_somebody_changes_it(made, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(made["tracer"], folder)
    cards = []
    for corpus in ("first-corpus", "second-corpus", "third-corpus"):
        config = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", {**config, "training_corpora": [corpus]})
        (tmp_path / corpus).mkdir()
        stage_model(folder, "alice/mine", tmp_path / corpus)
        cards.append((tmp_path / corpus / "README.md").read_text())
        edited = cards[-1].replace("## Training", "## How it was trained") if len(cards) == 2 else cards[-1]
        (folder / "README.md").write_text(edited)
    assert "Trained on: second-corpus." in cards[1]
    assert "Trained on: second-corpus." in cards[2] and "## How it was trained" in cards[2]


def test_a_private_file_among_the_adapters_stays_and_a_path_in_the_configuration_goes(made, tmp_path):
    source, target = tmp_path / "source", tmp_path / "staged"
    shutil.copytree(made["adapters"], source)
    target.mkdir()
    for name in ("training_args.bin", ".env", "step-3/optimizer.pt"):
        (source / "adapter" / name).parent.mkdir(exist_ok=True)
        (source / "adapter" / name).write_bytes(b"mine")
    config = json.loads((source / "config.json").read_text())
    write_json(source / "config.json", {**config, "_name_or_path": "/home/me/runs/mine"})
    staged = stage_model(source, "alice/mine", target)
    assert {"adapter/.env", "adapter/step-3/optimizer.pt", "adapter/training_args.bin"} <= set(staged.left_out)
    assert {name for name in staged.files if name.startswith("adapter/")} <= {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/README.md",
    }
    assert json.loads((target / "config.json").read_text())["_name_or_path"] == "mine"


def test_adapters_name_their_encoder_and_their_folder_travels(made, tmp_path):
    staged = stage_model(made["adapters"], "alice/mine", tmp_path)
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= set(staged.files)
    assert "adapter_config.json" not in staged.files
    metadata, body = split_card((tmp_path / "README.md").read_text())
    assert (metadata["base_model"], metadata["base_model_relation"]) == ("alice/encoder", "adapter")
    assert "alice/encoder" in body


def test_a_base_model_is_known_wherever_the_configuration_names_it(made, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(made["detector"], folder)
    config = json.loads((folder / "config.json").read_text())
    base = {"base_model_name_or_path": "Qwen/Qwen2-Audio-7B", "base_revision": "abc"}
    write_json(folder / "config.json", {**config, **base, "lora": {"r": 2}})  # as detectors around language models do
    facts = read_facts(folder)
    assert (facts.base_model, facts.base_revision) == ("Qwen/Qwen2-Audio-7B", "abc")
    write_json(folder / "config.json", {**config, **base, "base_model_name_or_path": str(tmp_path)})
    with pytest.raises(PublishError, match="which nobody else has"):
        stage_model(folder, "alice/mine", tmp_path)


def test_adapters_beside_a_whole_model_are_of_another_and_stay(made, tmp_path):
    folder, target = tmp_path / "model", tmp_path / "staged"
    shutil.copytree(made["detector"], folder)
    shutil.copytree(made["adapters"] / "adapter", folder / "adapter")
    target.mkdir()
    staged = stage_model(folder, "alice/mine", target)
    assert "adapter/" in staged.left_out and not any(name.startswith("adapter") for name in staged.files)


def test_a_model_in_the_cache_is_staged_through_its_links_and_no_other_link_is_followed(made, tmp_path):
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "1234"
    blobs.mkdir(parents=True)
    for number, path in enumerate(path for path in made["adapters"].rglob("*") if path.is_file()):
        link = snapshot / path.relative_to(made["adapters"])
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    (snapshot / "private.bin").symlink_to("/etc/hostname")  # nothing that travels
    (tmp_path / "staged").mkdir()
    staged = stage_model(snapshot, "alice/mine", tmp_path / "staged")
    assert {"model.safetensors", "adapter/adapter_config.json"} <= set(staged.files)
    assert not any(path.is_symlink() for path in staged.folder.rglob("*"))
    for name in ("notes.png", "adapter/adapter_extra.safetensors"):
        (snapshot / name).symlink_to("/etc/hostname")
        with pytest.raises(ValueError, match=f"{name} is a link that leads out of"):
            stage_model(snapshot, "alice/mine", tmp_path / "staged")
        (snapshot / name).unlink()
    shutil.rmtree(snapshot / "adapter")
    (snapshot / "adapter").symlink_to(made["adapters"] / "adapter")
    with pytest.raises(ValueError, match="adapter is a link that leads out of"):
        stage_model(snapshot, "alice/mine", tmp_path / "staged")


def test_a_card_that_somebody_wrote_is_kept_unless_a_new_one_is_asked_for(made, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(made["detector"], folder)
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [mine]\n---\n\nMy words.\n")
    cards = {}
    for how in ("keep", "new", "none"):
        target = tmp_path / how
        target.mkdir()
        stage_model(folder, "alice/mine", target, card=how)
        cards[how] = (target / "README.md").read_text() if (target / "README.md").is_file() else None
    metadata, body = split_card(cards["keep"])
    assert body == "My words.\n" and metadata["license"] == "mit" and metadata["tags"][:2] == ["mine", "spooftrace"]
    assert metadata["model-index"]
    assert "My words" not in cards["new"] and "license: mit" in cards["new"] and cards["none"] is None


# --- what is refused -------------------------------------------------------------------------------------------------


def _without(name):
    return lambda folder: (folder / name).unlink()


def _local_encoder(folder):
    config = json.loads((folder / "config.json").read_text())
    config["lora"] = {"base_model_name_or_path": str(folder)}
    write_json(folder / "config.json", config)


def _other_evaluation(folder):
    report = evaluation(folder)
    report["sources"][0]["model"]["revision"] = f"sha256:{64 * '0'}"
    write_json(folder / "evaluation.json", report)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_without("config.json"), "holds no config.json"),
        (_without("model.safetensors"), "holds no model.safetensors"),
        (_without("preprocessor_config.json"), "save the feature extractor"),
        (_without(".eval_results/org/bench/scores.txt"), "stands without its scores.txt"),
        (lambda folder: write_json(folder / "adapter_config.json", {}), "bare adapter"),
        (lambda folder: (folder / ".eval_results/org/bench/scores.txt").write_text("a 1\n"), "of other scores"),
        (lambda folder: (folder / "README.md").write_text("---\na: [\n---\n"), "not valid YAML"),
        (lambda folder: (folder / ".eval_results/org/bench/result.yaml").write_text("["), "result.yaml is not valid"),
        (lambda folder: write_json(folder / "preprocessor_config.json", []), "preprocessor_config.json holds no JSON"),
        (_local_encoder, "which nobody else has"),
        (_other_evaluation, "evaluation of other weights"),
    ],
)
def test_a_folder_that_would_not_load_or_not_be_true_is_refused(made, tmp_path, spoil, words):
    folder, target = tmp_path / "model", tmp_path / "staged"
    shutil.copytree(made["detector"], folder)
    target.mkdir()
    spoil(folder)
    with pytest.raises(ValueError, match=words):
        stage_model(folder, "alice/mine", target)


@pytest.mark.parametrize("benchmark", ["bench", "org/bench", "org/bench:"])
def test_a_benchmark_needs_its_task(made, tmp_path, benchmark):
    with pytest.raises(PublishError, match="OWNER/NAME:TASK"):
        stage_model(made["detector"], "alice/mine", tmp_path, benchmarks=[benchmark])


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (Loaded("x", [1.0, 2.0], {"model.safetensors": "b"}), "another SHA-256"),
        (Loaded("x", [1.0, 2.1], {"model.safetensors": "a"}), "answers otherwise"),
        (Loaded("x", [1.0], {"model.safetensors": "a"}), "answers otherwise"),
    ],
)
def test_what_arrived_otherwise_is_noticed(there, words):
    here = Loaded("x", [1.0, 2.0], {"model.safetensors": "a"})
    require_same(here, here)
    with pytest.raises(CheckError, match=words):
        require_same(here, there)


def test_the_error_of_a_process_becomes_one_line():
    text = 'Traceback (most recent call last):\n  File "x", line 1\nOSError: You are trying to access a gated repo.\nAsk for it.\n'
    assert reason(text).startswith("a model that it needs is gated")
    assert reason("Traceback:\n  here\nValueError: two\n  lines\n") == "ValueError: two lines"


# --- on the Hub ------------------------------------------------------------------------------------------------------

# The client reads its endpoint when it is imported: all calls run in one process of their own, one after the other.
PROGRAM = """
import json, sys
from spooftrace import publish_model
results = []
for call in json.load(sys.stdin):
    try:
        done = publish_model(**call)
        results.append({**done.push._asdict(), "class": done.model_class, "scores": done.scores})
    except (OSError, ValueError) as error:
        results.append({"error": str(error), "kind": type(error).__name__})
print(json.dumps(results))
"""

AT_ONCE = {"Retry-After": "0"}


@pytest.fixture(scope="module")
def published(made, tmp_path_factory) -> tuple[SmallHub, dict[str, dict]]:
    """The Hub after many publications, and the result of each by name. A check takes two processes: one model has one."""
    detector, quick = str(made["detector"]), {"check": False, "message": "a model"}
    stale = dict.fromkeys(("model-00001-of-00002.safetensors", "adapter/old.json", "notes.txt"), b"old")
    stale["README.md"] = b"---\ntags: [spooftrace]\n---\n"
    calls: dict[str, dict] = {
        "whole": {"folder": detector, "repo_id": "alice/whole", **quick},
        "adapters": {"folder": str(made["adapters"]), "repo_id": "alice/adapters", "private": True},
        "sastnet": {"folder": str(made["sastnet"]), "repo_id": "alice/sastnet", **quick},
        "again": {"folder": detector, "repo_id": "alice/whole", **quick},
        "busy": {"folder": detector, "repo_id": "alice/busy", **quick},
        "conflict": {"folder": detector, "repo_id": "alice/conflict", **quick},
        "lost": {"folder": detector, "repo_id": "alice/lost", **quick},
        "stale": {"folder": detector, "repo_id": "alice/stale", **quick},
        "foreign": {"folder": detector, "repo_id": "alice/foreign"},
        "branch": {"folder": detector, "repo_id": "alice/branch", "revision": "next", **quick},
        "pull request": {"folder": detector, "repo_id": "alice/pr", "create_pr": True, **quick},
        "down": {"folder": detector, "repo_id": "alice/down", "attempts": 2, **quick},
        "read token": {"folder": detector, "repo_id": "alice/new", "token": READ, **quick},
    }
    with small_hub(tmp_path_factory.mktemp("hub")) as hub:
        hub.seed("alice/encoder", made["encoder"])
        hub.seed("alice/stale", stale)
        hub.seed("alice/foreign", {"config.json": b"{}", "README.md": b"---\nlicense: mit\n---\n"})
        hub.cut("GET /alice/adapters/resolve/.*/model.safetensors", after=1000)
        hub.fail("POST /api/models/alice/busy/commit", 503, times=2, **AT_ONCE)
        hub.fail("POST /api/models/alice/conflict/commit", 412, **AT_ONCE)
        hub.cut("POST /api/models/alice/lost/commit")
        hub.fail("POST /api/models/alice/down/commit", 500, times=2, **AT_ONCE)
        environment = hub.env(TMPDIR=str(tmp_path_factory.mktemp("temporary")))
        done = warm_python.run("-c", PROGRAM, input=json.dumps(list(calls.values())), env=environment, check=True)
        results = dict(zip(calls, json.loads(done.stdout), strict=True))
        yield hub, results


def test_a_model_is_one_commit(published):
    hub, results = published
    assert hub.titles("alice/whole") == ["a model", "init"]
    assert results["whole"]["commit"] == hub.head("alice/whole") and results["whole"]["class"] is None


def test_the_address_of_the_scores_is_pinned_to_the_commit(published):
    hub, results = published
    name = ".eval_results/org/bench/scores.txt"
    assert results["whole"]["scores"] == [f"{hub.url}/alice/whole/resolve/{results['whole']['commit']}/{name}"]


def test_a_model_of_adapters_alone_is_loaded_with_its_encoder_from_the_hub_though_a_download_was_cut(published):
    hub, results = published
    assert results["adapters"].get("class") == "transformers_modules.AasistForAudioClassification", results["adapters"]
    assert {"adapter/adapter_config.json", "model.safetensors"} <= set(hub.files("alice/adapters"))
    encoder = [r for r in hub.requests if r.method == "GET" and r.path.startswith("/alice/encoder/resolve")]
    assert encoder and hub.store.find("model", "alice/adapters")["private"]
    downloads = [r for r in hub.requests if r.method == "GET" and re.search("/adapters/.*/model.safetensors", r.path)]
    assert downloads[0].status is None and any(request.status in (200, 206) for request in downloads[1:])


def test_publishing_again_changes_nothing(published):
    _, results = published
    assert not results["again"]["changed"] and results["again"]["commit"] == results["whole"]["commit"]


@pytest.mark.parametrize("name", ["busy", "conflict", "lost", "sastnet"])
def test_whatever_goes_wrong_in_between_there_is_one_commit(published, name):
    hub, results = published
    assert results[name].get("changed"), results[name]
    assert hub.titles(f"alice/{name}") == ["a model", "init"]


def test_weights_of_an_earlier_push_go_and_other_files_stay(published):
    files = set(published[0].files("alice/stale"))
    assert "model-00001-of-00002.safetensors" not in files and "adapter/old.json" not in files
    assert {"notes.txt", "model.safetensors"} <= files


def test_a_model_of_somebody_else_is_left_alone_and_that_is_said_before_anything_is_loaded(published):
    hub, results = published
    assert results["foreign"]["kind"] == "ForeignFilesError" and "pass --overwrite" in results["foreign"]["error"]
    assert hub.titles("alice/foreign") == ["init", "seed"]
    assert not any(r.method == "POST" and "alice/foreign" in r.path for r in hub.requests)


def test_a_branch_and_a_pull_request_leave_main_as_it_was(published):
    hub, results = published
    assert "model.safetensors" not in hub.files("alice/branch") and "model.safetensors" not in hub.files("alice/pr")
    assert "model.safetensors" in hub.files("alice/branch", revision="next")
    assert results["pull request"]["pull_request"] == 1


def test_what_could_not_be_pushed_is_kept_and_can_be_pushed_by_hand(published):
    hub, results = published
    failed = results["down"]
    assert failed["kind"] == "HubError" and "busy (500" in failed["error"] and hub.titles("alice/down") == ["init"]
    kept = Path(failed["error"].partition("kept in ")[2].partition(":")[0])
    assert (kept / "model.safetensors").is_file() and f"hf upload --repo-type model alice/down {kept}" in failed[
        "error"
    ]
    assert "may only read" in results["read token"]["error"]


def test_what_was_pushed_leaves_no_folder_behind(published):
    """Two publications failed: theirs alone are kept."""
    _, results = published
    kept = Path(results["down"]["error"].partition("kept in ")[2].partition(":")[0])
    assert len(list(kept.parent.glob("spooftrace-publish-*"))) == 2
    assert not list(kept.parent.glob("spooftrace-stranger-*"))


# --- the client's other way to upload -----------------------------------------------------------------------------------


@pytest.fixture
def xet_hub(tmp_path):
    """The Hub beside the project that takes uploads by Xet, which a plain installation of the client uses."""
    program = ROOT.parent / "shared" / "tools" / "loopback_hub.py"
    program = Path(os.environ.get("SPOOFTRACE_XET_HUB", program))
    if not program.is_file():
        pytest.skip(f"{program} is not here (set SPOOFTRACE_XET_HUB to point to it): the Hub of the tests has no Xet")
    for package in ("uvicorn", "hf_xet"):
        pytest.importorskip(package)
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(program), "--root", str(tmp_path / "xet"), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, server)
        yield f"http://127.0.0.1:{port}", tmp_path / "xet"
    finally:
        server.terminate()
        server.wait()


def _wait_for(port: int, server: subprocess.Popen) -> None:
    import socket
    import time

    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert server.poll() is None, "the Hub has ended"
        time.sleep(0.1)
    raise AssertionError("the Hub does not answer")


def test_it_is_published_by_xet_too(xet_hub, made, hub):
    url, root = xet_hub
    environment = {**hub.env(), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "0"}
    call = {"folder": str(made["detector"]), "repo_id": "alice/whole", "message": "a model", "check": False}
    done = warm_python.run("-c", PROGRAM, input=json.dumps([call]), env=environment, check=True)
    result = json.loads(done.stdout)[0]
    assert result.get("changed") and result["files"] > 5, result  # and it was compared with what lies there
    log = (root / "requests.log").read_text()
    assert "/v1/xorbs/" in log and "/info/lfs/" not in log
    assert sum("/commit/" in line for line in log.splitlines()) == 1
