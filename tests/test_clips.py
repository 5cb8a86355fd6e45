"""Rows become labelled waveforms of one length, the same ones for the same draw, and bad rows are named early."""

import numpy as np
import pytest
import soundfile

from spooftrace.trainers.clips import ClipDataset, LabelError, collate
from spooftrace.trainers.rawboost import RawBoost
from spooftrace.trainers.samplers import Draw


LABEL2ID = {"bonafide": 0, "spoof": 1}


@pytest.fixture
def rows(tmp_path) -> list[dict]:
    """A ramp of 1,000 samples, and one of 5,000: each sample tells its place."""
    made = []
    for name, size, label in (("short", 1000, "bonafide"), ("long", 5000, "spoof")):
        soundfile.write(tmp_path / f"{name}.flac", np.arange(size) / 8192, 16_000)
        made.append({"utterance_id": name, "audio": str(tmp_path / f"{name}.flac"), "label": label})
    return made


def test_evaluation_takes_the_beginning_and_repeats_what_is_short(rows):
    clips = ClipDataset(rows, LABEL2ID, num_samples=2500)
    short, long = clips[0], clips[1]
    ramp = np.arange(5000) / 8192
    np.testing.assert_allclose(short["input_values"], np.resize(ramp[:1000], 2500), atol=1e-4)
    np.testing.assert_allclose(long["input_values"], ramp[:2500], atol=1e-4)
    assert [short["labels"], long["labels"]] == [0, 1]
    assert [short["utterance_id"], long["utterance_id"]] == ["short", "long"]
    assert short["input_values"].dtype == np.float32 and "domain" not in short


def test_crops_follow_from_the_seed_and_reach_both_ends(rows):
    clips = ClipDataset(rows, LABEL2ID, num_samples=4990)
    assert np.array_equal(clips[Draw(1, 7)]["input_values"], clips[Draw(1, 7)]["input_values"])
    starts = {round(float(clips[Draw(1, seed)]["input_values"][0]) * 8192) for seed in range(200)}
    assert starts == set(range(11))
    fixed = ClipDataset(rows, LABEL2ID, num_samples=4990, crop="start")
    assert {float(fixed[Draw(1, seed)]["input_values"][0]) for seed in range(5)} == {0.0}


def test_training_clips_are_altered_before_they_are_cropped(rows):
    lengths = []

    def augment(waveform, rng):
        lengths.append(len(waveform))
        return waveform + np.float32(rng.random())

    clips = ClipDataset(rows, LABEL2ID, num_samples=100, crop="start", augment=augment)
    first, second = (clips[Draw(1, seed)]["input_values"][0] for seed in (1, 2))
    assert lengths == [5000, 5000] and first != second and clips[Draw(1, 1)]["input_values"][0] == first
    assert clips[1]["input_values"][0] == 0.0  # evaluation


def test_evaluation_clips_are_altered_on_demand_and_always_alike(rows):
    plain = ClipDataset(rows, LABEL2ID, num_samples=900, augment=RawBoost(5))
    altered = ClipDataset(rows, LABEL2ID, num_samples=900, augment=RawBoost(5), augment_eval=True)
    assert not np.allclose(plain[1]["input_values"], altered[1]["input_values"])
    assert np.array_equal(altered[1]["input_values"], altered[1]["input_values"])


def test_labels_that_the_model_does_not_have_are_counted(rows):
    rows += [{**rows[0], "label": "maybe"}, {**rows[0], "label": None}, {**rows[0], "label": None}]
    with pytest.raises(LabelError, match=r"None \(2 rows\), 'maybe' \(1 rows\); its own are bonafide, spoof"):
        ClipDataset(rows, LABEL2ID)


def test_numbers_mean_what_the_dataset_says_and_minus_one_is_no_label(rows):
    for row, number in zip(rows, (1, 0), strict=True):
        row["label"] = number
    clips = ClipDataset(rows, LABEL2ID, label_names=["spoof", "bonafide"])  # a dataset may count them otherwise
    assert clips.labels == [0, 1]
    rows[0]["label"] = -1
    with pytest.raises(LabelError, match=r"-1 \(1 rows\)"):
        ClipDataset(rows, LABEL2ID, label_names=["spoof", "bonafide"])
    rows[0]["label"] = 2
    with pytest.raises(LabelError, match=r"2 \(1 rows\)"):
        ClipDataset(rows, LABEL2ID, label_names=["spoof", "bonafide"])


def test_rows_without_a_label_are_counted(rows):
    del rows[0]["label"]
    with pytest.raises(KeyError, match=r"1 of 2 rows have no 'label'; there are audio, label, utterance_id"):
        ClipDataset(rows, LABEL2ID)


def test_a_dataset_is_read_as_it_is_and_without_its_decoder(rows):
    datasets = pytest.importorskip("datasets")
    labels = datasets.ClassLabel(names=["bonafide", "spoof"])
    dataset = datasets.Dataset.from_list([{**row, "audio": {"path": row["audio"], "bytes": None}} for row in rows])
    # As from the Hub: its samples would need torchcodec.
    dataset = dataset.cast_column("audio", datasets.Audio(decode=False)).cast_column("audio", datasets.Audio())
    dataset = dataset.cast_column("label", labels)
    clips = ClipDataset(dataset, LABEL2ID, label_names=["bonafide", "spoof"], num_samples=700)
    plain = ClipDataset(rows, LABEL2ID, num_samples=700)
    for index in range(2):
        assert np.array_equal(clips[index]["input_values"], plain[index]["input_values"])
    assert clips.labels == plain.labels
    with pytest.raises(KeyError, match="no column 'label'; it has utterance_id, audio"):
        ClipDataset(dataset.remove_columns("label"), LABEL2ID)


def test_a_batch_stacks_what_its_clips_hold(rows):
    batch = collate([ClipDataset(rows, LABEL2ID, num_samples=50, domains=[3, 1])[index] for index in (1, 0)])
    assert batch["input_values"].shape == (2, 50)
    assert batch["labels"].tolist() == [1, 0] and batch["domain"].tolist() == [1, 3]
    assert batch["utterance_id"] == ["long", "short"]
