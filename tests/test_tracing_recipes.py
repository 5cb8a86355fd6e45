"""Recipes of source tracers: both families from a recipe to a saved tracer, and one line for what cannot be done."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY_GRAPH
from corpus_trees_codecfake_plus import small_cors
from tiny_sastnet import TINY_MAE, TINY_REST, TINY_WHISPER
from tiny_training import RATE, write_encoder, write_own_corpus
from transformers import WhisperConfig, WhisperModel

from spooftrace.checkpoint import load_checkpoint
from spooftrace.cli import main
from spooftrace.trainers.recipe import load_recipe
from spooftrace.trainers.recipe_data import stand_in
from spooftrace.trainers.recipe_models import TINY_WAV2VEC2, count_parameters
from spooftrace.trainers.recipe_schema import RecipeError
from spooftrace.trainers.rehearse_recipe import rehearse


CODECS = {"A01": "mvq,none,time", "A02": "svq,semantic,frequency", "A03": ",,"}
TINY_AASIST = {"frontend": "mel", "encoder_channels": [4, 4, 6], "graph_dims": TINY_GRAPH["graph_dims"]}
HEARING = {"family": "sastnet", "use_semantics": False}
TINY_NET = {**TINY_MAE, **TINY_REST, "family": "sastnet", "task": "dec"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Data of one's own with the columns of source tracing; of the third system's codec nothing is known."""
    folder = write_own_corpus(tmp_path_factory.mktemp("tracing") / "corpus")
    header, *lines = (folder / "manifest.csv").read_text(encoding="utf-8").splitlines()
    rows = [f"{line},{CODECS.get(line.split(',')[2], ',,')}" for line in lines]
    (folder / "manifest.csv").write_text("\n".join([f"{header},vq,aux,dec", *rows]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    WhisperModel(WhisperConfig(**TINY_WHISPER)).save_pretrained(folder / "whisper")
    return {"whisper": str(folder / "whisper"), "wav2vec2": str(write_encoder(folder / "wav2vec2"))}


def written(path: Path, corpus: Path | None, **content) -> Path:
    """A recipe of three steps of half a second, on the CPU."""
    settings = {
        "num_samples": RATE // 2,
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    data = {"corpus": "own", **({} if corpus is None else {"dir": str(corpus)})}
    path.write_text(yaml.safe_dump({"data": data, **settings, **content}), encoding="utf-8")
    return path


def test_a_tracer_of_several_tasks_is_trained_measured_and_saved(corpus, tmp_path, capsys):
    model = {**TINY_AASIST, "tasks": ["bin", "vq"]}
    recipe, out = written(tmp_path / "t.yaml", corpus, model=model, trainer="tracing"), tmp_path / "out"
    assert main(["train", str(recipe), "--output-dir", str(out), "--max_steps", "1"]) == 0
    assert main(["train", str(recipe), "--output-dir", str(out), "--resume"]) == 0
    told = capsys.readouterr().out
    assert "resuming from" in told and f"spooftrace trace --model {out} CLIP" in told
    assert "(9 bonafide, 3 mvq, 3 svq)" in told
    result = json.loads((out / "training_result.json").read_text(encoding="utf-8"))
    assert result.keys() == {"steps", "best_step", "tasks"} and result["steps"] == 3
    measured = {"accuracy", "weighted_f1", "macro_f1", "loss", "trials"}
    assert result["tasks"]["vq"].keys() == measured and result["tasks"]["bin"].keys() == measured | {"eer"}
    assert result["tasks"]["vq"]["trials"] == {"bonafide": 9, "mvq": 3, "svq": 3}
    loaded = load_checkpoint(out)
    assert loaded.model.config.tasks == ["bin", "vq"] and loaded.feature_extractor.window_samples == RATE // 2
    before = (out / "model.safetensors").stat().st_mtime_ns  # finished: the same call changes nothing
    assert main(["train", str(recipe), "--output-dir", str(out), "--resume"]) == 0
    assert (out / "model.safetensors").stat().st_mtime_ns == before


def test_sastnet_is_trained_from_pretrained_parts(corpus, parts, tmp_path, capsys):
    recipe = written(tmp_path / "t.yaml", corpus, model={**TINY_NET, **parts}, trainer="sastnet")
    out = tmp_path / "out"
    settings = ["--feature_cache", str(tmp_path / "cache"), "--max_steps", "2"]
    assert main(["train", str(recipe), "--output-dir", str(out), *settings]) == 0
    assert "dec  weighted F1" in capsys.readouterr().out
    model = load_checkpoint(out).model
    whisper = WhisperModel.from_pretrained(parts["whisper"]).encoder
    kept = model.sastnet.semantics.encoder.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in whisper.state_dict().items())
    assert not torch.equal(model.loss_weights, torch.ones(2))
    assert model.config.calibration is None
    assert list((tmp_path / "cache").glob("*/*.features"))
    names = {key for entry in json.loads((out / "trainer_state.json").read_text())["log_history"] for key in entry}
    assert {"reconstruction_loss", "classification_weight", "eval_macro_f1"} <= names


def test_whether_speech_is_genuine_is_calibrated(corpus, tmp_path, capsys):
    model = {**TINY_NET, "frontend": "mel", "use_semantics": False, "task": "bin", "feature_size": 32}
    recipe, out = written(tmp_path / "t.yaml", corpus, model=model, trainer="sastnet"), tmp_path / "out"
    assert main(["train", str(recipe), "--output-dir", str(out), "--learning_rate", "0.001"]) == 0
    calibration = load_checkpoint(out).model.config.calibration
    result = json.loads((out / "training_result.json").read_text(encoding="utf-8"))
    assert 0 <= result["tasks"]["bin"]["eer"] <= 1
    told = capsys.readouterr().out
    if calibration is None:  # three steps may leave it worse than chance
        assert "not calibrated: on the validation clips, higher scores are not the more genuine ones" in told
    else:
        assert calibration["fitted_on"].startswith("own validation, 9 bona fide and 9 spoof clips")
        assert calibration["scale"] > 0 and "not calibrated" not in told


def test_an_encoder_that_was_tuned_with_a_baseline_is_taken_over(corpus, parts, tmp_path):
    model = {"base_model": parts["wav2vec2"], "tasks": ["dec"], **TINY_GRAPH}
    baseline = written(tmp_path / "baseline.yaml", corpus, model=model, trainer="tracing", learning_rate=0.01)
    assert main(["train", str(baseline), "--output-dir", str(tmp_path / "s-dec"), "--max_steps", "1"]) == 0
    tuned = {**TINY_NET, **parts, "wav2vec2": str(tmp_path / "s-dec")}
    recipe = load_recipe(written(tmp_path / "t.yaml", corpus, model=tuned, trainer="sastnet"))
    assert recipe.model_config().wav2vec2_config.hidden_size == TINY_WAV2VEC2["hidden_size"]
    arguments = ["--output-dir", str(tmp_path / "out"), "--max_steps", "1", "--learning_rate", "0.0"]
    assert main(["train", str(tmp_path / "t.yaml"), *arguments]) == 0
    theirs = load_checkpoint(tmp_path / "s-dec").model.wav2vec2.state_dict()
    ours = load_checkpoint(tmp_path / "out").model.sastnet.wav2vec2.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.parametrize("task", ["vq", "aux", "dec"])
def test_a_rehearsal_on_codecfake_plus_takes_the_list_that_is_balanced_for_its_task(tmp_path, task):
    small_cors(tmp_path / "cors")
    suffix = {"aux": "_learn", "vq": "_bal_vq", "dec": "_bal_dec"}[task]
    for path in (tmp_path / "cors").glob("**/*_mult_learn*.txt"):
        if not path.stem.endswith(suffix):
            path.unlink()  # of the others, nothing can be read
    data = {"corpus": "codecfake-plus-cors", "dir": str(tmp_path / "cors"), "config": task}
    model = {"family": "sastnet", "task": task, "whisper": "openai/whisper-small"}
    recipe = load_recipe(written(tmp_path / "t.yaml", None, model=model, trainer="sastnet", data=data))
    plan = "\n".join(rehearse(recipe, tmp_path / "out"))
    assert f"{task}: " in plan and "one step of a tiny random model: loss" in plan
    assert "all of it trained but Whisper" in plan
    assert "train       " in plan and "4 bonafide, " in plan


def test_fewer_clips_than_a_batch_are_refused_where_incomplete_ones_are_left_out(corpus, tmp_path, capsys):
    model = {**TINY_NET, "frontend": "mel", "use_semantics": False, "feature_size": 32}
    recipe = written(tmp_path / "t.yaml", corpus, model=model, trainer="sastnet", per_device_train_batch_size=100)
    for arguments in (["--dry-run"], ["--output-dir", str(tmp_path / "out")]):
        assert main(["train", str(recipe), *arguments]) == 1
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert "training clips make no batch of 100" in line and "`dataloader_drop_last` to false" in line
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_weights_that_nothing_fetches_are_asked_for(corpus, tmp_path, capsys):
    model = {**TINY_NET, **HEARING, "frontend": "mel", "feature_size": 32, "audiomae": str(tmp_path / "mae.pth")}
    recipe = written(tmp_path / "t.yaml", corpus, model=model, trainer="sastnet")
    assert main(["train", str(recipe), "--dry-run"]) == 0
    assert f"not here    model.audiomae is no file: {tmp_path / 'mae.pth'}" in capsys.readouterr().out
    assert main(["train", str(recipe), "--output-dir", str(tmp_path / "out")]) == 1
    assert "pass --model.audiomae FILE, or none to begin at random" in capsys.readouterr().err


def test_a_rehearsal_writes_no_features(corpus, tmp_path):
    model = {"family": "sastnet", "task": "dec", "frontend": "mel", "whisper": "openai/whisper-small"}
    recipe = written(
        tmp_path / "t.yaml", corpus, model=model, trainer="sastnet", feature_cache=str(tmp_path / "cache")
    )
    rehearse(load_recipe(recipe), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["t.yaml"]


def test_full_sizes_are_counted_without_fetching_anything(tmp_path):
    names = {"wav2vec2": "facebook/wav2vec2-xls-r-300m", "whisper": "openai/whisper-small"}
    recipe = written(tmp_path / "t.yaml", None, model={"family": "sastnet", "task": "aux", **names}, trainer="sastnet")
    assert count_parameters(load_recipe(recipe).model_config()) == (549_510_478, 637_664_590)


def test_the_stand_in_of_a_rehearsal_has_every_class(tmp_path):
    model = {**TINY_AASIST, "tasks": ["bin", "vq", "dec"]}
    rows = stand_in(load_recipe(written(tmp_path / "t.yaml", None, model=model, trainer="tracing")))
    assert [row["vq"] for row in rows] == ["bonafide", "mvq", "svq", "sq"]
    assert {row["dec"] for row in rows} == {"bonafide", "time", "frequency"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"family": "gnn"}}, "model.family is 'aasist' or 'sastnet' or 'audio_llm', got 'gnn'"),
        ({"model": {"family": "sastnet", "tasks": ["vq"]}}, "no key is called model (family sastnet).tasks"),
        ({"model": {**TINY_AASIST, "whisper": "x"}}, "no key is called model (family aasist).whisper"),
        ({"model": {"tasks": ["codec"]}}, "model or lora: "),
        ({"model": {"family": "sastnet", "task": "codec"}}, "model or lora: "),
        ({"model": {"tasks": ["vq"]}, "trainer": "sastnet"}, "trainer sastnet is for model.family sastnet"),
        ({"model": {"tasks": ["vq"]}, "trainer": "erm"}, "trainer erm is for a detector: model.family aasist"),
        ({"model": {"family": "sastnet"}}, "model.whisper is missing: Whisper is never trained"),
        ({"model": {"family": "sastnet", "whisper": ""}}, "such as openai/whisper-small"),
        ({"model": {**HEARING, "task": "vq"}, "trainer": "erm"}, "the tasks vq needs trainer tracing"),
        ({"model": {"family": "sastnet"}, "lora": {"r": 2}}, "lora adapts a pretrained encoder"),
        ({"cosine_step": "step"}, "cosine_step is no setting of trainer 'tracing'"),
        ({"unknown_labels": "drop"}, "unknown_labels is 'error' or 'mask', got 'drop'"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_when_it_is_read(tmp_path, content, message):
    content = {"trainer": "tracing", "model": {**TINY_AASIST, "tasks": ["vq"]}, **content}
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path / "t.yaml", None, **content))
    assert message in str(caught.value)


def test_data_that_cannot_be_trained_with_is_told_in_one_line(corpus, tmp_path, capsys):
    folder = write_own_corpus(tmp_path / "plain")
    recipe = written(tmp_path / "t.yaml", folder, model={**TINY_AASIST, "tasks": ["vq"]}, trainer="tracing")
    assert main(["train", str(recipe), "--output-dir", str(tmp_path / "out")]) == 1
    line = capsys.readouterr().err.strip()
    assert "data.train 'train' has 6 bonafide in the task vq: it needs clips of two classes at least" in line


def test_overrides_reach_the_fields_of_either_family(tmp_path):
    recipe = written(tmp_path / "t.yaml", None, model={"family": "sastnet", "task": "vq"}, trainer="sastnet")
    changes = [("model.mask_ratio", "0.5"), ("model.num_decoders", "1"), ("model.use_semantics", "false")]
    found = load_recipe(recipe, [*changes, ("class_weights", "equal")])
    config = found.model_config()
    assert (config.mask_ratio, config.num_decoders, config.use_semantics) == (0.5, 1, False)
    assert found.arguments["class_weights"] == "equal"
    several = load_recipe(
        written(tmp_path / "u.yaml", None, model={**TINY_AASIST, "tasks": ["vq"]}, trainer="tracing"),
        [("model.tasks", "[vq, dec]"), ("task_weights", "{vq: 1, dec: 2}")],
    )
    assert several.model_config().tasks == ["vq", "dec"] and several.arguments["task_weights"]["dec"] == 2.0
