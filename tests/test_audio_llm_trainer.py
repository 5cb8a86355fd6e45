"""Fine-tuning audio language models: what is learned, in which tokens, what is saved, and that nothing depends on batches."""

import json
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from audio_llm_jobs import base_of, detector, doubled, trainer_of
from audio_llm_models import KINDS
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule
from training_jobs import assert_same, state_of, write_corpus

from spooftrace.metrics import auc, eer
from spooftrace.modeling import AudioLLMForAudioClassification
from spooftrace.trainers.audio_llm_config import AudioLLMTrainingConfig
from spooftrace.trainers.audio_llm_labels import Answers, base_processor


WEIGHTS = {"bonafide": 0.75, "spoof": 0.25}
ENCODERS = ("audio_tower", "transformer.audio", "multi_modal_projector")


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bases")


@pytest.fixture(scope="module")
def base(folder):
    return base_of(folder)


def trained_parameters(model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


# --- what is trained -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_stand_in_the_language_model_and_nowhere_in_the_encoder(folder, kind):
    model = detector(base_of(folder, kind))
    layers = {name.partition(".lora_")[0] for name in trained_parameters(model)}
    per_layer = {"qwen_audio": 5, "qwen2_audio": 7, "qwen2_5_omni_thinker": 7}[kind]  # w1, w2 and two called c_proj
    assert len(layers) == 2 * per_layer
    assert {name.rpartition(".")[2] for name in layers} == (
        {"c_attn", "c_proj", "w1", "w2"}
        if kind == "qwen_audio"
        else {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    )
    assert not any(part in name for name in layers for part in (*ENCODERS, "visual"))


@pytest.mark.parametrize("train_encoder", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_moves_is_saved_and_comes_back(folder, rows, tmp_path, kind, train_encoder):
    base = base_of(folder, kind)
    model = detector(base, train_encoder=train_encoder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = trainer_of(base, model, tmp_path, rows, rows)
    trainer.train()
    after, trained = model.state_dict(), set(trained_parameters(model))
    assert {name for name in before if not torch.equal(before[name], after[name])} == trained
    assert any(part in name for name in trained for part in ENCODERS) == train_encoder
    assert not any(name.endswith(("embed_positions.weight", "positional_embedding")) for name in trained)
    trainer.save_model(str(tmp_path / "saved"))
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == trained
    again = AudioLLMForAudioClassification.from_pretrained(tmp_path / "saved")
    expected = trainer.predict(rows).predictions
    assert np.array_equal(trainer_of(base, again, tmp_path, rows).predict(rows).predictions, expected)


def test_parameters_are_trained_in_float32_beside_a_base_in_bfloat16(base, rows, tmp_path):
    model = detector(base, train_encoder=True, dtype=torch.bfloat16)
    trainer = trainer_of(base, model, tmp_path, rows, rows, bf16=True)
    assert {value.dtype for value in trained_parameters(model).values()} == {torch.float32}
    assert model.backbone.lm_head.weight.dtype == torch.bfloat16
    trainer.train()
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def test_a_model_that_fsdp_has_divided_is_saved_with_its_own_code(base, rows, tmp_path):
    model = detector(base)
    trainer, own = trainer_of(base, model, tmp_path, rows), type(model)
    model.__class__ = type(f"FSDP{own.__name__}", (FSDPModule, own), {})  # as fully_shard does
    trainer.save_model(str(tmp_path / "saved"))
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert saved["auto_map"]["AutoModelForAudioClassification"] == f"modeling_audio_llm.{own.__name__}"
    assert (tmp_path / "saved" / "modeling_audio_llm.py").exists() and isinstance(model, FSDPModule)


# --- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["answer", "reference"])
def test_the_loss_is_the_cross_entropy_of_the_learned_tokens_by_the_plain_model(base, rows, tmp_path, mask):
    model = detector(base)
    trainer = trainer_of(base, model, tmp_path, rows, label_mask=mask, class_weights=WEIGHTS)
    batch = trainer.collator([trainer.train_dataset[index] for index in (0, 12, 3, 19)])
    with torch.no_grad():
        loss = trainer.compute_loss(model.train(), trainer._prepare_inputs(dict(batch)))
        embeds, _ = model.encode_audio(batch["input_features"], batch["feature_attention_mask"])
        hidden = model.decode(embeds, batch["input_ids"], batch["attention_mask"])
        logits = model.backbone.lm_head(hidden)[:, :-1]  # of the whole vocabulary at every place
    losses = F.cross_entropy(logits.transpose(1, 2), batch["target_ids"][:, 1:], ignore_index=-100, reduction="none")
    weights = torch.tensor([0.75, 0.25])[batch["labels"]][:, None] * (batch["target_ids"][:, 1:] != -100)
    torch.testing.assert_close(loss, (losses * weights).sum() / weights.sum(), atol=1e-5, rtol=1e-5)


def test_the_vocabulary_is_scored_where_a_token_is_learned_and_nowhere_else(base, rows, tmp_path):
    model, shapes = detector(base), []
    model.backbone.lm_head.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    trainer = trainer_of(base, model, tmp_path, rows, rows, max_steps=1)
    trainer.train()
    trainer.evaluate()
    assert shapes == [(3 * 4, model.config.backbone_config.text_config.vocab_size)]


@pytest.mark.parametrize("mask", ["answer", "reference"])
def test_a_step_is_the_same_however_its_clips_are_divided_into_batches(base, rows, tmp_path, mask):
    results = []
    for size in (8, 4, 1):
        model = doubled(detector(base, train_encoder=True))
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size, "max_steps": 4}
        settings |= {"optim": "sgd", "weight_decay": 0.0, "max_grad_norm": 0.0, "class_weights": WEIGHTS}
        trainer = trainer_of(base, model, tmp_path / str(size), rows, label_mask=mask, **settings)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        results.append((trained_parameters(model), losses))
    start = trained_parameters(detector(base, train_encoder=True))
    assert max(float((results[0][0][name] - start[name]).abs().max()) for name in start) > 1e-4
    for parameters, losses in results[1:]:
        assert losses == pytest.approx(results[0][1], rel=1e-5)
        for name, value in results[0][0].items():
            torch.testing.assert_close(parameters[name], value, rtol=0, atol=1e-8, msg=name)


def test_recomputed_activations_change_nothing(base, rows, tmp_path):
    results = []
    for recompute in (False, True):
        model = detector(base, train_encoder=True)
        trainer = trainer_of(base, model, tmp_path, rows, activation_checkpointing=recompute)
        trainer.train()
        assert model.is_activation_checkpointing == recompute
        results.append(trained_parameters(model))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_evaluation_is_of_the_log_odds_that_the_model_gives(base, rows, tmp_path):
    model = detector(base)
    metrics = trainer_of(base, model, tmp_path, rows, rows).evaluate()
    trainer = trainer_of(base, model, tmp_path, rows, rows, per_device_eval_batch_size=1)
    scores = []
    with torch.inference_mode():
        for index in range(len(rows)):
            features = trainer.feature_extractor(trainer.eval_dataset[index]["input_values"], return_tensors="pt")
            logits = model(**features).logits[0]
            scores.append(float(logits[0] - logits[1]))
    genuine = [row["label"] == "bonafide" for row in rows]
    split = [[score for score, known in zip(scores, genuine, strict=True) if known == kind] for kind in (True, False)]
    assert metrics["eval_eer"] == eer(*map(np.array, split)).eer
    loss = np.mean([np.logaddexp(0, -score if known else score) for score, known in zip(scores, genuine, strict=True)])
    assert metrics["eval_loss"] == pytest.approx(loss, rel=1e-4)


# --- interruptions ---------------------------------------------------------------------------------------------------


def noisy(base, folder, rows, **settings):
    """Dropout, RawBoost and crops; evaluations and checkpoints in the midst of epochs of three steps."""
    model = detector(base, train_encoder=True, lora={"r": 2, "lora_dropout": 0.3})
    strategy = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    changes = {"rawboost": 5, "crop": "random", "num_samples": 2_400, "per_device_train_batch_size": 3}
    steps = {"gradient_accumulation_steps": 2, "max_steps": 7, "load_best_model_at_end": True}
    return trainer_of(base, model, folder, rows, rows[::3], **{**strategy, **changes, **steps, **settings})


def test_a_resumed_run_ends_as_one_without_interruption_to_the_bit(base, rows, tmp_path):
    whole = noisy(base, tmp_path / "whole", rows)
    whole.train()
    parts = noisy(base, tmp_path / "parts", rows)
    parts.args.max_steps, steps = 7, []

    class Stop(Exception):
        pass

    def stopped(model, inputs, *args, step=parts.training_step, **kwargs):
        steps.append(inputs["utterance_id"])
        if len(steps) > 9:  # in the fifth step, after a checkpoint
            raise Stop
        return step(model, inputs, *args, **kwargs)

    parts.training_step = stopped
    with pytest.raises(Stop):
        parts.train()
    resumed = noisy(base, tmp_path / "parts", rows)
    resumed.train(resume_from_checkpoint=True)
    assert_same(state_of(resumed), state_of(whole))


def test_a_checkpoint_of_another_base_model_is_refused(base, rows, tmp_path):
    noisy(base, tmp_path, rows, max_steps=2).train()
    from audio_llm_models import write_base

    write_base(tmp_path / "other", seed=1)
    other = detector(tmp_path / "other", train_encoder=True, lora={"r": 2, "lora_dropout": 0.3})
    with pytest.raises(ValueError, match="was trained on another base model"):
        trainer_of(base, other, tmp_path, rows).train(resume_from_checkpoint=True)


# --- features of a frozen encoder ------------------------------------------------------------------------------------


def test_cached_features_change_nothing_and_are_computed_once(base, rows, tmp_path):
    results, caches = [], []
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        model, calls = detector(base), []
        encode = model.encode_audio
        model.encode_audio = lambda *args, encode=encode, calls=calls, **kwargs: (
            calls.append(1) or encode(*args, **kwargs)
        )
        settings = {} if cache is None else {"feature_cache": str(cache)}
        trainer = trainer_of(base, model, tmp_path, rows, rows, num_train_epochs=2, max_steps=-1, **settings)
        trainer.train()
        results.append((trained_parameters(model), trainer.predict(rows).predictions))
        caches.append(len(calls))
    for parameters, predictions in results[1:]:
        np.testing.assert_allclose(predictions, results[0][1], atol=1e-4)
        for name, value in results[0][0].items():
            torch.testing.assert_close(parameters[name], value, rtol=0, atol=1e-4, msg=name)
    steps = -(-len(rows) // 4)
    assert caches[1:] == [steps, 0] and caches[0] > 2 * steps


def test_features_of_another_encoder_or_of_one_that_is_trained_are_not_taken(base, rows, tmp_path):
    trainers = [
        trainer_of(base, detector(base), tmp_path, rows, feature_cache=str(tmp_path / "cache")) for _ in range(2)
    ]
    assert trainers[0]._encoder == trainers[1]._encoder
    model = detector(base)
    with torch.no_grad():
        model.backbone.model.audio_tower.conv1.bias[0] += 1e-3
    other = trainer_of(base, model, tmp_path, rows, feature_cache=str(tmp_path / "cache"))
    assert other._encoder != trainers[0]._encoder
    eager = detector(base, attn_implementation="eager")  # rounds in another way
    other = trainer_of(base, eager, tmp_path, rows, feature_cache=str(tmp_path / "cache"))
    assert other._encoder != trainers[0]._encoder
    kinds = []
    for dtype in (torch.float32, torch.bfloat16):  # of an evaluation wholly in half precision
        other.model.to(dtype)
        kinds.append(other._encoded([np.zeros(16_000, np.float32)])["audio_embeds"].dtype)
    assert kinds == [torch.float32, torch.bfloat16]
    with pytest.raises(ValueError, match="keeps what a frozen encoder gives"):
        trainer_of(base, detector(base, train_encoder=True), tmp_path, rows, feature_cache=str(tmp_path / "cache"))


# --- arguments -------------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_public_code(tmp_path):
    args = AudioLLMTrainingConfig(str(tmp_path), use_cpu=True)
    assert (args.learning_rate, args.weight_decay, args.adam_beta1, args.adam_beta2) == (4e-5, 0.1, 0.9, 0.95)
    assert (args.num_train_epochs, args.per_device_train_batch_size, args.gradient_accumulation_steps) == (5, 8, 1)
    assert (args.lr_scheduler_type, args.get_warmup_steps(1000)) == ("cosine", 10)
    assert (args.num_samples, args.crop, args.rawboost, args.class_weights) == (480_000, "start", 0, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_mask": "all"}, "`label_mask` is one of 'answer', 'reference', got 'all'"),
        ({"device_augmentation": {"noise": 0.5}}, "gets log-mel frames"),
        ({"label_smoothing_factor": 0.1}, "has no place in the loss over tokens"),
        ({"train_sampling_strategy": "group_by_length"}, "`group_by_length` makes"),
        ({"feature_cache_bytes": 0}, "`feature_cache_bytes` is at least 1"),
    ],
)
def test_arguments_that_cannot_be_served_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        AudioLLMTrainingConfig(str(tmp_path), use_cpu=True, **settings)


def test_rows_that_ask_another_question_and_answers_of_other_words_are_refused(base, rows, tmp_path):
    with pytest.raises(ValueError, match="the list asks 'Genuine"):
        trainer_of(base, detector(base), tmp_path, [{**row, "prompt": "Genuine?"} for row in rows])
    with pytest.raises(ValueError, match="nothing in the model would be trained"):
        trainer_of(base, detector(base, lora=None), tmp_path, rows)
    model = detector(base)
    trainer = trainer_of(base, model, tmp_path, rows)
    with pytest.raises(ValueError, match="`augment_batch` alters waveforms where the model is"):
        type(trainer)(model, trainer.args, processing_class=trainer.feature_extractor, augment_batch=torch.add)
    wrong = Answers(((1, 2), (3, 4)))
    with pytest.raises(ValueError, match="the answers begin with the tokens"):
        type(trainer)(model, trainer.args, processing_class=trainer.feature_extractor, answers=wrong)


def test_the_processor_is_the_one_that_was_published_with_the_base_model(base):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert type(base_processor(detector(base).config)).__name__ == "Qwen2AudioProcessor"


# --- learning --------------------------------------------------------------------------------------------------------


def test_adapters_learn_to_tell_tones_from_noise_in_clips_that_they_have_not_heard(base, tmp_path):
    heard, unheard = (
        write_corpus(tmp_path / str(seed), genuine=24, spoofs=8, seed=seed) for seed in (0, 1)
    )  # the tones begin elsewhere, the noise is another
    model = detector(base, lora={"r": 16, "lora_dropout": 0.0})
    settings = {"max_steps": 80, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "weight_decay": 0.0}
    trainer = trainer_of(base, model, tmp_path / "out", heard, feature_cache=str(tmp_path / "cache"), **settings)
    assert auc(*trainer.scores(trainer.predict(unheard))) < 0.9
    trainer.train()
    assert auc(*trainer.scores(trainer.predict(unheard))) > 0.97
