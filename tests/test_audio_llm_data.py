"""ALLM4ADD's lists, conversations about clips, and the batches that are made of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from audio_llm_models import tiny_processor, write_base
from hypothesis import given, settings
from hypothesis import strategies as st

from spooftrace.data_scripts.protocol import ProtocolError
from spooftrace.modeling import AudioLLMFeatureExtractor, AudioLLMForAudioClassification
from spooftrace.trainers.allm4add_data import check_questions, read_questions, write_questions
from spooftrace.trainers.audio_llm_clips import AudioLLMCollator, WholeClipDataset
from spooftrace.trainers.audio_llm_labels import IGNORED, Answers, base_processor, read_answers
from spooftrace.trainers.length_sampler import LengthGroupedSampler, clip_lengths


KINDS = ("qwen_audio", "qwen2_audio", "qwen2_5_omni_thinker")
PROMPT = "Is this audio real or fake?"


def wave(folder: Path, name: str, seconds: float) -> Path:
    path = folder / f"{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(round(16_000 * seconds)), 16_000)
    return path


def line(audio: str | Path, answer: str = "Real.", question: str = PROMPT) -> str:
    user = {"role": "user", "audio": str(audio), "content": question}
    return json.dumps({"messages": [user, {"role": "assistant", "content": answer}]})


# --- lists -----------------------------------------------------------------------------------------------------------


def test_relative_clips_lie_beside_the_list_wherever_it_is_read_from(tmp_path, monkeypatch):
    wave(tmp_path / "lists" / "clips", "a", 0.1), wave(tmp_path, "b", 0.1)
    path = tmp_path / "lists" / "mine.jsonl"
    path.write_text(f"{line('clips/a.wav')}\n{line(tmp_path / 'b.wav', 'Fake.')}\n")
    monkeypatch.chdir(tmp_path)
    rows = read_questions("lists/mine.jsonl")
    assert rows == [
        {"utterance_id": "a", "audio": str(path.parent / "clips/a.wav"), "label": "bonafide", "prompt": PROMPT},
        {"utterance_id": "b", "audio": str(tmp_path / "b.wav"), "label": "spoof", "prompt": PROMPT},
    ]


def test_faults_and_missing_clips_are_listed_by_their_lines(tmp_path):
    there, other = wave(tmp_path, "a", 0.1), wave(tmp_path, "b", 0.1)
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join([line(there), line(other, "Maybe."), "{"]))
    with pytest.raises(ProtocolError) as caught:
        read_questions(path)
    assert [problem.line for problem in caught.value.problems] == [2, 3]
    path.write_text("\n".join([line(there), line("../b.wav"), line(tmp_path / "gone.wav")]))
    with pytest.raises(
        ProtocolError, match=r"2 of 3 clips have no audio file, such as 'b' .*line 2\), 'gone' .*line 3"
    ):
        read_questions(path)


def test_rows_come_back_from_the_list_that_they_were_written_to(tmp_path):
    rows = [
        {"utterance_id": name, "audio": str(wave(tmp_path, name, 0.1)), "label": label}
        for name, label in (("a", "spoof"), ("b", "bonafide"))
    ]
    path = tmp_path / "list.jsonl"
    assert write_questions([{**rows[0], "audio": {"path": rows[0]["audio"], "bytes": None}}, rows[1]], path) == 2
    assert read_questions(path) == [{**row, "prompt": PROMPT} for row in rows]
    before = path.read_text()
    bad = [rows[0], {**rows[1], "label": None}, {**rows[1], "audio": str(tmp_path / "gone.wav")}]
    with pytest.raises(ProtocolError) as caught:
        write_questions(bad, path)
    assert [problem.line for problem in caught.value.problems] == [2, 3]
    assert path.read_text() == before


def test_a_list_is_written_of_a_dataset_without_decoding_its_clips(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"utterance_id": "a", "audio": str(wave(tmp_path, "a", 0.1)), "label": "spoof"}]
    dataset = datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio())
    assert write_questions(dataset, tmp_path / "list.jsonl") == 1
    assert read_questions(tmp_path / "list.jsonl") == [{**rows[0], "prompt": PROMPT}]


def test_a_list_with_another_question_is_not_trained_with():
    check_questions([{"label": "spoof"}, {"label": "spoof", "prompt": PROMPT}], PROMPT)
    with pytest.raises(ValueError, match=r"'Genuine\?' \(2 rows\), and the detector 'Is this"):
        check_questions([{"prompt": "Genuine?"}, {"prompt": PROMPT}, {"prompt": "Genuine?"}], PROMPT)


# --- conversations ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    """A detector's configuration, its processor and its feature extractor."""
    folder = tmp_path_factory.mktemp(request.param) / "base"
    write_base(folder, request.param)
    config = AudioLLMForAudioClassification.from_backbone_pretrained(folder).config
    return config, tiny_processor(request.param), AudioLLMFeatureExtractor.from_backbone_pretrained(folder)


def examples(*seconds: float) -> list[dict]:
    rng = np.random.default_rng(0)
    waves = [0.1 * rng.standard_normal(round(16_000 * length)).astype(np.float32) for length in seconds]
    return [
        {"input_values": samples, "labels": number % 2, "utterance_id": str(number), "seed": number}
        for number, samples in enumerate(waves)
    ]


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        ("answer", "{}.<|im_end|>"),
        ("reference", "<|im_start|><|im_end|>\n<|im_start|><|im_end|>\n<|im_start|>{}.<|im_end|>\n"),
    ],
)
def test_what_is_learned_is_the_answer_or_the_reference_s_eleven_tokens(made, mask, text):
    config, processor, extractor = made
    collator = AudioLLMCollator(extractor, config, read_answers(processor, config), mask)
    batch = collator(examples(1.0, 0.4, 0.7))
    for row, (targets, ids) in enumerate(zip(batch["target_ids"], batch["input_ids"], strict=True)):
        word = ("Real", "Fake")[row % 2]
        assert processor.tokenizer.decode(targets[targets != IGNORED]) == text.format(word)
        assert torch.equal(targets[targets != IGNORED], ids[targets != IGNORED])
        assert (targets != IGNORED).sum() == {"answer": 3, "reference": 11}[mask]
        assert collator.num_targets(row % 2) == {"answer": 3, "reference": 10}[mask]  # nothing predicts the first


def test_the_conversation_is_that_of_the_processor_and_batches_are_as_wide_as_their_longest_clip(made):
    config, processor, extractor = made
    collator = AudioLLMCollator(extractor, config, read_answers(processor, config))
    batch = collator(examples(1.0, 0.4))
    whole = batch["input_ids"][0]
    spoken = [f"{token}" for token in processor.tokenizer.convert_ids_to_tokens(whole.tolist())]
    assert spoken.count(processor.audio_token) == 25  # of 40 ms
    assert processor.tokenizer.decode(whole).endswith(f"{PROMPT}<|im_end|>\n<|im_start|>assistant\nReal.<|im_end|>")
    assert batch["attention_mask"].sum(-1).tolist() == [len(whole), len(whole) - 15]
    assert batch["input_features"].shape[-1] in (102, 103, 104)
    alone = collator(examples(1.0, 0.4)[1:])
    assert torch.equal(alone["input_ids"][0], batch["input_ids"][1, : len(whole) - 15])
    assert batch["labels"].tolist() == [0, 1] and batch["seed"] == [0, 1]


def test_a_system_prompt_of_one_s_own_leaves_the_answers_alone(made):
    config, processor, _ = made
    asked = type(config)(**{**config.to_dict(), "system_prompt": "Listen well."})
    assert read_answers(processor, asked) == read_answers(processor, config)


def test_answers_that_do_not_fit_the_detector_are_refused(made):
    config, processor, _ = made
    answers = read_answers(processor, config)
    with pytest.raises(ValueError, match="the answers begin with the tokens"):
        Answers(answers.words[::-1]).check(config, "answer")
    with pytest.raises(ValueError, match="of ChatML, which this model's prompt lacks"):
        Answers(answers.words, answers.rest).check(config, "reference")
    with pytest.raises(ValueError, match="pass `answers=`"):
        base_processor(type(config)(**{**config.to_dict(), "base_model_name_or_path": None}))


# --- clips -----------------------------------------------------------------------------------------------------------


def test_clips_keep_their_length_up_to_the_longest_and_lengths_come_from_headers_or_the_column(tmp_path):
    rows = [
        {"utterance_id": str(seconds), "audio": str(wave(tmp_path, str(seconds), seconds)), "label": "spoof"}
        for seconds in (0.25, 0.5, 1.0)
    ]
    clips = WholeClipDataset(rows, {"bonafide": 0, "spoof": 1}, num_samples=8_000)
    assert [len(clips[index]["input_values"]) for index in range(3)] == [4_000, 8_000, 8_000]
    assert clip_lengths(clips.rows, 8_000).tolist() == [4_000, 8_000, 8_000]
    told = [{**row, "duration": 0.125} for row in rows]
    assert clip_lengths(told, 8_000).tolist() == [2_000] * 3
    told[1].pop("duration")  # for one clip the files are read
    assert clip_lengths(told, 8_000).tolist() == [4_000, 8_000, 8_000]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=0, max_size=120),
    clips_per_step=st.integers(1, 7),
    epoch=st.integers(0, 3),
)
def test_every_clip_comes_once_an_epoch_and_an_incomplete_step_last(lengths, clips_per_step, epoch):
    sampler = LengthGroupedSampler(lengths, clips_per_step, seed=5)
    sampler.set_epoch(epoch)
    draws = list(sampler)
    assert draws == list(sampler) and len(draws) == len(sampler)
    assert sorted(draw.index for draw in draws) == list(range(len(lengths)))
    steps = [draws[at : at + clips_per_step] for at in range(0, len(draws), clips_per_step)]
    if len(lengths) >= clips_per_step:  # where memory does not suffice, it shows at once
        assert max(lengths[draw.index] for draw in steps[0]) == max(
            lengths[draw.index] for step in steps if len(step) == clips_per_step for draw in step
        )


def test_steps_are_of_like_length_and_epochs_differ():
    lengths = np.random.default_rng(0).integers(1, 1000, 400)
    sampler = LengthGroupedSampler(lengths, 8)
    first = [draw.index for draw in sampler]
    spread = np.mean([np.ptp(lengths[first[at : at + 8]]) for at in range(0, 400, 8)])
    assert spread < 0.05 * np.ptp(lengths)
    sampler.set_epoch(1)
    assert [draw.index for draw in sampler] != first
