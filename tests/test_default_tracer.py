"""The tracer that ships, its card, and the recipe that makes it: what it reads, what it masks, and what it refuses."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tiny_tracers import RATE, voice

from spooftrace.checkpoint import default_folder
from spooftrace.classification import report_of
from spooftrace.open_set import OPEN_SET_FILE, OpenSet
from spooftrace.tracer import Tracer
from spooftrace.trainers import default_tracer, report_tracer
from spooftrace.trainers.detector_corpus import COLUMNS, CorpusError, read_corpus, repeated
from spooftrace.trainers.small_training import MODEL, fresh_model
from spooftrace.trainers.tracer_card import card
from spooftrace.trainers.tracer_corpus import (
    LICENSED_LABELS,
    SYSTEM_FOLDS,
    TASKS,
    TracingSampler,
    class_counts,
    targets_of,
    tracing_clips,
    unknown_clips,
)
from spooftrace.trainers.tracer_open_set import CONTENDERS, SHIPPED, trace_clips
from spooftrace.trainers.tracing_labels import UNKNOWN


QUICK = ["--steps", "4", "--pairs", "2", "--frames", "50", "--report-every", "2"]
MVQ, SVQ = ("mvq", "none", "time"), ("svq", "disentanglement", "freq")
# Two clips of each, with a codec of every part of SYSTEM_FOLDS.
SOURCES = {
    "genuine": ("bonafide", "none", ("na",) * 3),
    "dac": ("spoof", "codec", MVQ),
    "languagecodec": ("spoof", "codec", SVQ),
    "encodec": ("spoof", "codec", MVQ),
    "wavtokenizer": ("spoof", "codec", SVQ),
    "funcodec": ("spoof", "codec", MVQ),
    "supercodec": ("spoof", "codec", SVQ),
    "vits": ("spoof", "tts", ("na",) * 3),
}
SPEAKERS = {"train": "abcd", "valid": "ef", "test": "gh"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A corpus of pitched noise; three rows that no training may open have no audio."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = [
        row(f"audio/{system}-{split}-{number}.flac", system, split=split, speaker=speakers[number])
        for split, speakers in SPEAKERS.items()
        for system in SOURCES
        for number in range(2)
    ]
    for index, one in enumerate(rows):
        write_clip(folder / one["file"], list(SOURCES).index(one["system"]), index)
    rows.append(row("unlicensed/a.flac", "dac", license="no licence stated"))
    rows.append(row("audio/coded.flac", "vits", note="transmission codec, not synthesis"))
    rows.append(row("audio/mixed.flac", "dac", split="mixed"))
    write_metadata(folder, rows)
    return folder


def row(file: str, system: str, **values: str) -> dict[str, str]:
    label, family, classes = SOURCES[system]
    known = {"file": file, "label": label, "system": system, "family": family, "split": "train", "page_fold": "1"}
    page = {"source_repo": f"a/{system}", "license": "MIT", "speaker": "a"}
    return {**dict.fromkeys(COLUMNS, ""), **known, **page, **dict(zip(TASKS, classes, strict=True)), **values}


def write_metadata(folder: Path, rows: list[dict[str, str]]) -> None:
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [*COLUMNS, "page_fold", "speaker", *TASKS])
        writer.writeheader()
        writer.writerows(rows)


def write_clip(path: Path, kind: int, seed: int) -> None:
    time = np.arange(RATE) / RATE
    noise = np.random.default_rng(seed).normal(size=len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.05 * noise + 0.1 * np.sin(2 * np.pi * 500 * (kind + 1) * time), RATE)


def run(data: Path, out: Path, *options: str) -> int:
    return default_tracer.main(["--corpus", str(data), "--out", str(out), *QUICK, *options])


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert run(data, folder / "model") == 0
    return folder / "model"


# --- the model that ships --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> Path:
    return default_folder("tracer")


@pytest.fixture(scope="module")
def evaluation(shipped) -> dict:
    return json.loads((shipped / "evaluation.json").read_text(encoding="utf-8"))


def test_the_shipped_tracer_answers_the_three_questions_of_its_card(shipped):
    tracer = Tracer.from_pretrained(device="cpu")
    assert tracer.task_labels == LICENSED_LABELS and tracer.open_set is not None
    trace = tracer(voice(3.0), sampling_rate=RATE)
    for task, labels in LICENSED_LABELS.items():
        probabilities = getattr(trace, task).probabilities
        assert list(probabilities) == labels and sum(probabilities.values()) == pytest.approx(1)
        assert f"| `{task}` | {', '.join(labels)} |" in (shipped / "README.md").read_text(encoding="utf-8")
    assert trace.unknown.is_unknown in (True, False)


def test_the_shipped_folder_holds_weights_and_their_papers_but_no_code(shipped):
    names = {path.name for path in shipped.iterdir()}
    papers = {"README.md", "evaluation.json", "training.json"}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json", OPEN_SET_FILE, *papers}
    config = json.loads((shipped / "config.json").read_text())
    assert "auto_map" not in config and config["training_corpora"]
    assert sum(path.stat().st_size for path in shipped.iterdir()) < 8e6


def test_the_card_is_what_its_measurements_say(shipped):
    assert (shipped / "README.md").read_text(encoding="utf-8") == card(shipped)


def test_every_f1_of_the_card_follows_from_the_confusion_beside_it(evaluation):
    for results in evaluation["closed_set"].values():
        for task, found in results.items():
            report = report_of(np.array(found["confusion"]))
            assert (
                report.support.tolist() == list(found["support"].values())
                and next(iter(found["support"])) == "bonafide"
            )
            assert found["macro_f1"] == pytest.approx(report.macro_f1, abs=1e-4)
            low, high = found["macro_f1_interval"]
            assert low <= found["macro_f1"] <= high, task


def test_the_tracer_that_ships_beats_majority_and_random_on_test(evaluation):
    for found in evaluation["closed_set"]["test"].values():
        assert found["macro_f1_interval"][0] > max(found["majority"]["macro_f1"], found["random"]["macro_f1"])


def test_the_open_set_score_that_ships_is_the_one_that_the_choice_names(shipped, evaluation):
    found = evaluation["open_set"]
    assert max(found["merit"], key=found["merit"].get) == found["shipped"] == SHIPPED.name
    assert OpenSet.load(shipped / OPEN_SET_FILE).scorer.method == SHIPPED.method


def test_the_shipped_counts_are_those_of_the_corpus(corpus_dir, shipped, evaluation):
    clips = read_corpus(corpus_dir)
    record = json.loads((shipped / "training.json").read_text(encoding="utf-8"))
    for split in ("train", "valid", "test"):
        counts = class_counts(tracing_clips(clips, split), LICENSED_LABELS)
        assert evaluation["classes"][split] == counts
        assert split == "test" or record["clips"][split] == counts


def test_the_test_figures_come_out_again(corpus_dir, evaluation):
    clips = [clip for clip in tracing_clips(read_corpus(corpus_dir), "test") if clip.is_spoof]
    traced = trace_clips(Tracer.from_pretrained(device="cpu"), corpus_dir, clips)
    targets = targets_of(clips, LICENSED_LABELS)
    for column, task in enumerate(TASKS):
        spoofed = np.array(evaluation["closed_set"]["test"][task]["confusion"])[1:]
        right = traced.predictions(task) == targets[:, column]
        assert right.sum() == pytest.approx(np.trace(spoofed, offset=1), abs=1)  # a tie may fall either way elsewhere


def test_every_part_of_the_codecs_leaves_every_class_a_system(corpus_dir):
    clips = read_corpus(corpus_dir)
    codecs = {clip.system for clip in tracing_clips(clips, "train") if clip.is_spoof}
    assert codecs == {name for part in SYSTEM_FOLDS for name in part}
    for part in range(len(SYSTEM_FOLDS)):
        counts = class_counts(tracing_clips(clips, "train", system_fold=part), LICENSED_LABELS)
        assert all(counts[task][label] for task, labels in LICENSED_LABELS.items() for label in labels)


# --- what is learnt from ---------------------------------------------------------------------------------------------


def test_test_rows_unlicensed_rows_and_spoofs_without_a_codec_are_never_trained_on(data):
    clips = read_corpus(data)
    chosen = tracing_clips(clips, "train")
    assert {clip.file for clip in chosen} == {
        f"audio/{system}-train-{number}.flac" for system in SOURCES if system != "vits" for number in range(2)
    }
    assert "unlicensed/a.flac" in {clip.file for clip in tracing_clips(clips, "train", all_rows=True)}
    assert tracing_clips(clips, "train", held_out_fold=1) == []
    assert not {"dac", "languagecodec"} & {clip.system for clip in tracing_clips(clips, "train", system_fold=0)}


def test_the_unknown_sources_are_spoofs_that_no_codec_made(data):
    unknown = unknown_clips(read_corpus(data), "train")
    assert [clip.file for clip in unknown] == ["audio/vits-train-0.flac", "audio/vits-train-1.flac"]


def test_classes_have_the_taxonomys_names_and_those_outside_the_label_set_are_masked(tmp_path):
    classes = [("sq", "none", "time"), ("mvq", "semantic", "freq"), ("na", "", "na")]
    rows = [row(f"{name}.flac", "dac", **dict(zip(TASKS, name, strict=True))) for name in classes]
    write_metadata(tmp_path, [row("g.flac", "genuine"), *rows])
    clips = read_corpus(tmp_path)
    assert targets_of(clips, LICENSED_LABELS).tolist() == [
        [0, 0, 0],
        [UNKNOWN, 1, 1],
        [1, UNKNOWN, 2],
        [UNKNOWN, UNKNOWN, UNKNOWN],
    ]
    assert class_counts(clips[:3], LICENSED_LABELS)["vq"] == {"bonafide": 1, "mvq": 1, "svq": 0, "masked": 1}


def test_half_of_the_drawn_clips_are_genuine_and_rare_classes_come_more_often(data):
    clips = tracing_clips(read_corpus(data), "train")
    targets = targets_of(clips, LICENSED_LABELS)
    energies = [np.full((60, 2, 4), float(index), np.float16) for index in range(len(clips))]
    sampler = TracingSampler(clips, energies, targets, frames=4)
    drawn, labels = sampler.draw_labelled(200, np.random.default_rng(0))
    index = drawn.log().round().long()[:, 0, 0, 0]
    assert torch.equal(labels, torch.from_numpy(targets)[index])  # each crop has the classes of its clip
    assert (labels[0::2] == 0).all() and (labels[1::2] > 0).all()
    assert sampler.class_shares(0, 3).tolist() == pytest.approx([0.5, 0.25, 0.25])


def test_a_class_that_is_left_out_has_no_weight_and_masked_clips_no_part_in_the_loss(data):
    clips = [clip for clip in tracing_clips(read_corpus(data), "train") if clip.vq != "svq"]
    targets = targets_of(clips, LICENSED_LABELS)
    config = default_tracer.AasistConfig(**MODEL, tasks=list(TASKS), task_labels=LICENSED_LABELS)
    sampler = TracingSampler(clips, [np.zeros((60, 2, 4), np.float16)] * len(clips), targets, frames=50)
    training = default_tracer.TracerTraining(default_tracer.TracerRecipe(), fresh_model(config, 0), sampler)
    assert training.weights[0][2] == 0 and (training.weights[0][:2] > 0).all()
    logits, labels = [torch.randn(3, 3) for _ in TASKS], torch.tensor([[0, 0, 0], [1, 1, 1], [UNKNOWN] * 3])
    whole = training._cross_entropy(logits, labels)
    assert whole == training._cross_entropy([task[:2] for task in logits], labels[:2])


# --- the commands ----------------------------------------------------------------------------------------------------


def test_one_command_trains_a_tracer_with_an_open_set_score(data, trained):
    record = json.loads((trained / "training.json").read_text())
    assert record["clips"]["train"]["vq"] == {"bonafide": 2, "mvq": 6, "svq": 6} and record["options"]["steps"] == 4
    tracer = Tracer.from_pretrained(trained, device="cpu")
    trace = tracer(data / "audio/dac-test-0.flac")
    assert trace.unknown is not None and set(trace.dec.probabilities) == set(LICENSED_LABELS["dec"])
    scores = [tracer(data / clip.file).unknown.score for clip in tracing_clips(read_corpus(data), "valid")]
    assert sum(map(tracer.open_set.is_unknown, scores)) == 0  # 95 % of 14 known valid clips are all of them


def test_a_stopped_run_goes_on_to_the_same_weights(data, trained, tmp_path, monkeypatch):
    advance = default_tracer.TracerTraining.advance

    def stop_at_three(training):
        if training.step == 3:
            raise KeyboardInterrupt
        return advance(training)

    monkeypatch.setattr(default_tracer.TracerTraining, "advance", stop_at_three)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path)
    monkeypatch.setattr(default_tracer.TracerTraining, "advance", advance)
    assert (tmp_path / default_tracer.STATE).exists()
    assert run(data, tmp_path) == 0 and not (tmp_path / default_tracer.STATE).exists()
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_the_windows_of_validation_are_those_of_the_model(data, trained):
    """What is reported during training is what the model says about the first window."""
    model = default_tracer.AasistForAudioClassification.from_pretrained(trained).eval()
    clips = tracing_clips(read_corpus(data), "valid")
    energies = default_tracer.band_energies([data / clip.file for clip in clips], model.aasist.frontend, "valid")
    frames = min(map(len, energies))
    predictions = default_tracer.window_predictions(model, energies, frames)
    window = torch.from_numpy(np.stack([repeated(clip, frames) for clip in energies]).astype(np.float32))
    with torch.no_grad():
        features = model.aasist.frontend.compress(window.permute(0, 2, 3, 1).exp())
        model.aasist.frontend.forward = lambda _: features
        expected = model(torch.zeros(len(clips), RATE)).task_logits
    for task in TASKS:
        assert predictions[task].tolist() == expected[task].argmax(1).tolist()


def test_the_report_measures_every_kind_of_model_and_writes_the_card(data, trained, tmp_path):
    for number, file in enumerate(("unlicensed/a.flac", "audio/mixed.flac")):
        write_clip(data / file, 1, number)
    others = {"PAGES": ["--held-out-fold", "0"], "SYSTEMS": ["--system-fold", "2"]}
    for name, options in others.items():
        assert run(data, tmp_path / name, *options) == 0
        assert not (tmp_path / name / OPEN_SET_FILE).exists()
    command = ["--corpus", str(data), "--model", str(trained), "--without-pages", f"1={tmp_path / 'PAGES'}"]
    assert report_tracer.main([*command, "--without-systems", str(tmp_path / "SYSTEMS")]) == 0
    found = json.loads((trained / "evaluation.json").read_text())
    assert found["closed_set"]["test"]["vq"]["support"] == {"bonafide": 2, "mvq": 6, "svq": 6}
    assert found["held_out_pages"]["together"]["dec"]["support"] == {"bonafide": 4, "time": 13, "frequency": 12}
    assert set(found["open_set"]["test"]) == {contender.name for contender in CONTENDERS}
    left_out = found["open_set"]["choice"]["energy (vq)"]["codecs left out"]["against known codecs"]
    assert (left_out["known"], left_out["unknown"]) == (8, 8)  # valid clips; train and valid clips
    text = (trained / "README.md").read_text()
    assert "--held-out-fold 0" in text and "--system-fold 2" in text and "| vq, majority |" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",mvq,", ",rvq,", 1), "vq 'rvq' is none of mvq, svq, sq and na"),
        (lambda text: text.replace(",svq,", ",mvq,"), "none of vq svq"),
        (lambda text: text.replace(",train,", ",valid,"), "0 bona fide rows"),
    ],
)
def test_unfit_metadata_is_refused_in_one_line(data, tmp_path, capsys, change, message):
    (tmp_path / "metadata.csv").write_text(change((data / "metadata.csv").read_text()))
    assert run(tmp_path, tmp_path / "model") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and re.search(message, error)
    assert issubclass(CorpusError, ValueError)


def test_training_on_all_rows_has_all_classes_to_fill(data, tmp_path, capsys):
    assert run(data, tmp_path / "model", "--all-rows") == 1
    assert "none of vq sq, aux semantic" in capsys.readouterr().err
