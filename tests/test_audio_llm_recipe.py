"""Recipes of audio language models: the shipped ones are rehearsed without a model, and a tiny one trains to the end."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from audio_llm_models import write_base
from corpus_trees import write_asvspoof2019
from tiny_training import write_own_corpus

from spooftrace.cli import main
from spooftrace.detector import Detector
from spooftrace.trainers import audio_llm_recipe
from spooftrace.trainers.allm4add_data import write_questions
from spooftrace.trainers.audio_llm_recipe import build_audio_llm
from spooftrace.trainers.recipe import load_recipe
from spooftrace.trainers.recipe_data import load_clips
from spooftrace.trainers.recipe_schema import RecipeError
from spooftrace.trainers.rehearse_recipe import rehearse
from spooftrace.trainers.train_recipe import train_recipe


SHIPPED = {"allm4add": (783_250_432, 8_537_433_088), "allm4add-qwen2-audio": (159_907_840, 8_557_002_752)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Writes a recipe of three steps on a tiny Qwen2-Audio and a corpus of one's own."""
    folder = tmp_path_factory.mktemp("tiny")
    write_base(folder / "base")
    corpus = write_own_corpus(folder / "corpus")

    def write(**changes) -> Path:
        content = {
            "model": {"family": "audio_llm", "base_model": str(folder / "base")},
            "lora": {"r": 2},
            "data": {"corpus": "own", "dir": str(corpus)},
            "trainer": "audio_llm",
            "per_device_train_batch_size": 4,
            "max_steps": 3,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "save_strategy": "steps",
            "save_steps": 1,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_rehearsed_without_their_weights(name, tmp_path):
    trained, total = SHIPPED[name]
    plan = "\n".join(rehearse(load_recipe(name), tmp_path / "run"))
    assert f"parameters  {trained:,} trained of {total:,}" in plan
    text = (Path(__file__).parent.parent / "trainers" / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"{trained:,} trained parameters" in text
    weights, matrices = 4 * trained + 2 * (total - trained), 32 * (4 * 4096**2 + 3 * 4096 * 11_008)  # of the decoder
    assert f"{weights / 1e9:.1f} GB of weights, {12 * trained / 1e9:.1f} GB for AdamW" in text
    assert f"{(weights - matrices * (2 - 4.127 / 8)) / 1e9:.1f} GB of weights" in text  # in 4 bits
    assert "adapters of rank 64 (alpha 16)" in plan and "asked 'Is this audio real or fake?'" in plan
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_rehearsal_makes_a_step_of_a_tiny_model_on_the_corpus(name, tmp_path):
    write_asvspoof2019(tmp_path / "LA")
    changes = [("data.dir", str(tmp_path / "LA")), ("use_cpu", "true"), ("per_device_train_batch_size", "2")]
    plan = "\n".join(rehearse(load_recipe(name, changes), tmp_path / "run"))
    assert "train       2 bona fide, 2 spoof" in plan and "tiny random model: loss" in plan


def test_the_command_trains_a_detector_that_is_calibrated_and_loads(tiny, tmp_path, capsys):
    path, out = tiny(), tmp_path / "out"
    assert main(["train", str(path), "--output-dir", str(out)]) == 0
    assert "EER" in capsys.readouterr().out
    found = json.loads((out / "config.json").read_text())
    assert found["lora"]["r"] == 2 and "9 bona fide and 9 spoof clips" in found["calibration"]["fitted_on"]
    assert {"adapter", "recipe.yaml", "preprocessor_config.json"} <= {each.name for each in out.iterdir()}
    clip = next(Path(load_recipe(path).data["dir"]).glob("*.flac"))
    assert torch.isfinite(torch.tensor(Detector.from_pretrained(out)(clip).score))
    again = train_recipe(load_recipe(path), out, resume=True, tell=pytest.fail)
    assert again.steps == 3


def test_every_setting_reaches_the_model(tiny):
    recipe = load_recipe(
        tiny(), [("model.prompt", "Genuine?"), ("model.train_encoder", "true"), ("model.dtype", "bfloat16")]
    )
    model = build_audio_llm(recipe.model, recipe.lora, seed=0)
    assert model.config.prompt == "Genuine?" and model.config.lora["r"] == 2
    assert model.backbone.lm_head.weight.dtype == torch.bfloat16
    assert model.backbone.model.audio_tower.conv1.weight.requires_grad
    assert load_recipe(tiny(lora=None), [("model.train_encoder", "true")]).model_config().lora is None


def test_a_list_of_allm4add_is_trained_with_as_it_is(tiny, tmp_path):
    rows = load_clips(load_recipe(tiny())).train
    for split in ("train", "validation"):
        write_questions(rows, tmp_path / f"{split}.jsonl")
    recipe = load_recipe(tiny(data={"corpus": "allm4add", "dir": str(tmp_path)}))
    assert train_recipe(recipe, tmp_path / "out", tell=lambda line: None).trials == (6, 6)
    write_questions(rows, tmp_path / "train.jsonl", question="Genuine?")
    with pytest.raises(ValueError, match="the list asks 'Genuine"):
        train_recipe(recipe, tmp_path / "other", tell=lambda line: None)


def test_what_cannot_be_carried_out_is_told_before_anything_is_fetched(tiny, tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="audio_llm is a trainer and a family, both"):
        load_recipe(tiny(trainer="erm"))
    with pytest.raises(RecipeError, match=r"lora adapts a pretrained encoder: name it as model\.base_model"):
        load_recipe(tiny(model={"family": "audio_llm"}))
    with pytest.raises(RecipeError, match=r"model\.base_model is missing"):
        load_recipe(tiny(model={"family": "audio_llm"}, lora=None))
    with pytest.raises(RecipeError, match="nothing would be trained: give lora some keys"):
        load_recipe(tiny(lora=None))
    with pytest.raises(RecipeError, match="did you mean model"):
        load_recipe(tiny(model={"family": "audio_llm", "base_modl": "x"}))
    with pytest.raises(RecipeError, match="model or lora: "):
        load_recipe(tiny(), [("model.label_words", "{real: Real, fake: Fake}")])
    recipe = load_recipe(tiny(), [("model.load_in_4bit", "true")])
    monkeypatch.setattr(audio_llm_recipe, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(RecipeError, match="needs bitsandbytes: pip install bitsandbytes"):
        build_audio_llm(recipe.model, recipe.lora, seed=0)
    (tmp_path / "config.json").write_text('{"model_type": "qwen"}')
    with pytest.raises(RecipeError, match="convert it by `spooftrace convert qwen-audio"):
        load_recipe(tiny(), [("model.base_model", str(tmp_path))])
