"""`spooftrace reproduce sastnet-...`: the path from lists to tables, by a guess whose F1 is known and by tiny tracers."""

import functools
import io
import json
import shutil
from dataclasses import replace
from math import log
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from corpus_trees_codecfake_plus import (
    cosg_all_lines,
    evaluation_lines,
    small_cors,
    sources,
    write_evaluation_list,
)
from tiny_runs import tiny_folder, write_clip
from tiny_sastnet import WINDOW, tiny_sastnet
from tiny_tracers import THREE, save_tracer
from tiny_training import TINY_GRAPH, write_encoder
from tqdm import tqdm

from spooftrace.audio import load_audio
from spooftrace.checkpoint import load_checkpoint
from spooftrace.cli import main
from spooftrace.cli import reproduce as command
from spooftrace.data_scripts.silence import remove_silence
from spooftrace.data_scripts.taxonomy import CODECS
from spooftrace.modeling import SASTNetFeatureExtractor
from spooftrace.modeling.source_tasks import TASK_LABELS
from spooftrace.score_journal import find_records, read_record
from spooftrace.trainers import reproduce_tracing, trace_trials, tracing_explanations, tracing_scores
from spooftrace.trainers.reproduce_tracing import TARGETS, TracingReproduction, TracingRow
from spooftrace.trainers.tracing_report import silence_effects, silence_text
from spooftrace.trainers.tracing_scores import (
    SourceResult,
    by_source,
    guessed_classes,
    measure,
    predicted_classes,
    rank_correlation,
)
from spooftrace.trainers.tracing_sets import SETS, TASKS, clusters_of, read_trials, true_classes
from spooftrace.trainers.write_sastnet_recipes import RANDOM_F1


# Trials of each class in the published lists, and the weighted F1 in percent that guessing all classes alike comes to.
PUBLISHED = {
    ("vq", "cors"): ((755, 18_120, 3_020, 1_510), 32.30),
    ("vq", "cosg-known"): ((259, 249, 6, 63), 29.76),
    ("vq", "cosg-all"): ((866, 848, 20, 63), 31.53),
    ("aux", "cors"): ((755, 12_835, 6_040, 3_775), 28.73),
    ("aux", "cosg-known"): ((259, 275, 5, 38), 30.75),
    ("aux", "cosg-all"): ((866, 874, 5, 52), 32.08),
    ("dec", "cors"): ((755, 13_590, 9_060), 38.65),
    ("dec", "cosg-known"): ((259, 240, 78), 35.17),
    ("dec", "cosg-all"): ((866, 263, 668), 35.03),
}
UTTERANCES = [("p227", "p227_001"), ("p228", "p228_002"), ("p228", "p228_300"), ("p227", "p227_301")]
LABELS = ("bonafide", "bonafide", "spoof", "spoof")
KEPT = ("DAC24", "bigcodec", "spectralcodecs", "ticodec_1g1r", "mini", "SemantiCodec_0.35kbps_16k")


@pytest.fixture(scope="module")
def full_lists(tmp_path_factory):
    """The lists with as many trials of every class as published, and no audio."""
    data = tmp_path_factory.mktemp("full")
    lines = evaluation_lines(sources("test"), without=("Encodec_24b24k",))
    write_evaluation_list(data / "codecfake-plus-cors", "CoRS_ALL", lines)
    write_evaluation_list(data / "codecfake-plus-cosg", "CoSG_ALL", cosg_all_lines())
    return data


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(tracing_scores, "ROUNDS", 10)


@functools.cache
def rows_of(data, name):
    found = SETS[name]
    trials = read_trials(data, [name], print)[found.corpus]
    return [row for row in trials if found.holds(row)]


# --- the guess -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "name"), PUBLISHED)
def test_class_counts_and_the_f1_of_guessing_are_those_of_the_published_lists(full_lists, task, name):
    counts, expected = PUBLISHED[task, name]
    rows = rows_of(full_lists, name)
    result = measure(rows, guessed_classes(rows, task), task)
    assert tuple(np.sum(result.confusion, axis=1)) == counts
    assert 100 * result.by_chance == pytest.approx(expected, abs=0.005)
    assert RANDOM_F1[task][name] == pytest.approx(expected, abs=2)


@pytest.mark.parametrize(("task", "name"), PUBLISHED)
def test_guesses_come_to_the_f1_that_is_expected_of_them(full_lists, task, name):
    rows, classes = rows_of(full_lists, name), len(TASK_LABELS[task])
    truth = true_classes(rows, task)
    found = []
    for seed in range(1, 5):
        cells = truth * classes + guessed_classes(rows, task, seed)
        confusion = np.bincount(cells, minlength=classes**2).reshape(classes, classes)
        f1 = 2 * np.diagonal(confusion) / (confusion.sum(0) + confusion.sum(1))
        found.append(100 * float(f1 @ confusion.sum(1)) / len(rows))
    spread = 0.6 if name == "cors" else 3
    assert np.mean(found) == pytest.approx(PUBLISHED[task, name][1], abs=spread / 2)
    assert max(found) - min(found) < 3 * spread


def test_the_random_row_goes_through_the_whole_command_without_audio(full_lists, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["reproduce", "sastnet-table1", "--data", str(full_lists), "--out", str(out), "--random"]) == 0
    text = capsys.readouterr().out
    assert "755 + 22,650" in text and "259 + 318" in text and "866 + 931" in text
    (row,) = json.loads((out / "sastnet-table1.json").read_text(encoding="utf-8"))["rows"]
    for (task, name), (_, expected) in PUBLISHED.items():
        result = row["results"][task][name]
        assert f"{100 * result['weighted_f1']:.2f} [" in text and f"/ {RANDOM_F1[task][name]:.2f}" in text
        assert f"{expected:.2f}" in text
        width = {"cors": 1, "cosg-known": 5, "cosg-all": 3}[name]
        assert 100 * result["weighted_f1"] == pytest.approx(expected, abs=width)


def test_seen_and_unseen_utterances_divide_cors(full_lists):
    seen, unseen = rows_of(full_lists, "cors-seen"), rows_of(full_lists, "cors-unseen")
    labels = [[row.label for row in rows].count("bonafide") for rows in (seen, unseen)]
    assert labels == [488, 267] and (len(seen), len(unseen)) == (15_128, 8_277)


def test_intervals_resample_utterances_where_there_are_few_speakers(full_lists):
    rows = rows_of(full_lists, "cors")
    assert len(set(clusters_of(rows))) == 755
    assert clusters_of(rows_of(full_lists, "cosg-all")) is None
    many = [row._replace(speaker_id=f"p{index % 12}") for index, row in enumerate(rows[:100])]
    assert len(set(clusters_of(many))) == 12
    wide = measure(rows[: 31 * 40], guessed_classes(rows[: 31 * 40], "vq"), "vq")
    assert wide.intervals["weighted_f1"].clusters == 40


# --- measures --------------------------------------------------------------------------------------------------------


def test_results_by_codec_take_the_genuine_clips_in(full_lists):
    rows = rows_of(full_lists, "cors")
    truth = true_classes(rows, "dec")
    predicted = np.where([row.attack_id == "DAC24" for row in rows], 2, truth)  # time, traced to frequency
    found = {source.name: source for source in by_source(rows, predicted, "dec")}
    assert len(found) == 30 and found["bigcodec"].f1 == found["bigcodec"].recall == 1
    assert (found["DAC24"].recall, found["DAC24"].f1, found["DAC24"].trials) == (0, 0.5, 755)


def test_results_by_generator_take_its_own_genuine_clips(full_lists):
    rows = rows_of(full_lists, "cosg-all")
    predicted = np.where([row.extra["model"] == "GPST" for row in rows], 0, true_classes(rows, "vq"))
    found = {source.name: source for source in by_source(rows, predicted, "vq")}
    assert len(found) == 17 and found["VALLE"].f1 == 1
    assert found["GPST"].trials == 30 and found["GPST"].f1 == pytest.approx(0.25 * 20 / 50)  # 10 genuine, 30 not


def test_rank_correlation_is_spearmans():
    scipy = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 8, 30), rng.normal(size=30)
    found = rank_correlation(first, second + first)
    expected = scipy.spearmanr(first, second + first)
    assert found.rho == pytest.approx(expected.statistic) and found.number == 30
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.01)
    assert rank_correlation([1, 2], [1, 2]) is None and rank_correlation([1, 1, 1], [1, 2, 3]) is None


def test_classes_that_a_model_lacks_are_never_predicted_and_unread_clips_are_left_out():
    lines = [
        {"log_probabilities": {"vq": {"bonafide": log(0.2), "svq": log(0.8)}}},
        {"error": "AudioError", "message": "..."},
        {"log_probabilities": {"vq": {"bonafide": log(0.7), "svq": log(0.3)}}},
    ]
    assert predicted_classes(lines, "vq").tolist() == [2, -1, 0]


# --- tracers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Some clips of both corpora."""
    data = tmp_path_factory.mktemp("data")
    cors, cosg = data / "codecfake-plus-cors", data / "codecfake-plus-cosg"
    lines = list(evaluation_lines(UTTERANCES, without=set(CODECS) - set(KEPT)))
    write_evaluation_list(cors, "CoRS_ALL", lines)
    generated = [line for line in cosg_all_lines() if line.startswith(("USLM", "TI1G1R", "SINGLECODEC"))]
    write_evaluation_list(cosg, "CoSG_ALL", generated)
    clips = [cors / "all_data_16k" / f"{line.split()[1]}.wav" for line in lines]
    clips += [cosg / "SLMdemos_16k" / line.split()[0] / f"{line.split()[1]}.wav" for line in generated]
    for seed, path in enumerate(clips):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, seed)
    return data


@pytest.fixture(scope="module")
def tracers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracers")
    for name, tasks in {"s-aux": ("aux",), "m2-vq": THREE}.items():
        save_tracer(folder / name, tasks)
    return folder


@pytest.fixture
def place(corpora, tracers, tmp_path, monkeypatch):
    """The corpora, and tiny tracers for some rows of Table I."""
    monkeypatch.setattr(trace_trials, "BLOCK_SIZE", 16)
    (tmp_path / "data").symlink_to(corpora)
    shutil.copytree(tracers, tmp_path / "tracers")
    return tmp_path


def run(place, *arguments, code: int = 0, target: str = "sastnet-table1"):
    data, out, given = (str(place / name) for name in ("data", "out", "tracers"))
    options = ["--data", data, "--out", out, "--checkpoints", given, "--device", "cpu"]
    assert main(["reproduce", target, *options, *arguments]) == code


def results(place, row: str, target: str = "sastnet-table1") -> dict:
    rows = json.loads((place / "out" / f"{target}.json").read_text(encoding="utf-8"))["rows"]
    return next(found for found in rows if found["name"].endswith(row))["results"]


def stored(place, row: str, folder: str) -> dict:
    """Log-probabilities that were kept, by utterance id."""
    journal = place / "out" / f"sastnet-table1-{row}" / "log-probabilities" / folder
    lines = [line for record in find_records(journal).values() for line in read_record(record)]
    return {line["utterance_id"]: line["log_probabilities"] for line in lines}


def directly(place, row: str, path: str, silence_removed: bool = False) -> dict:
    """The same for one clip, without any of the machinery."""
    loaded, clip = load_checkpoint(place / "tracers" / row), load_audio(path)
    clip = remove_silence(clip).waveform if silence_removed else clip
    inputs = loaded.feature_extractor(clip[:8_000], sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        output = loaded.model(**inputs)
    logits = output.task_logits or {loaded.model.config.tasks[0]: output.logits}
    labels = loaded.model.config.task_labels
    return {
        task: dict(zip(labels[task], found[0].log_softmax(-1).tolist(), strict=True)) for task, found in logits.items()
    }


def test_every_task_of_a_tracer_is_measured_on_every_set(place, capsys):
    run(place, "--only", "s-aux", "m2-vq")
    text = capsys.readouterr().out
    assert "4 + 24" in text and "19 + 25" in text and "weighted F1, ours / the paper's" in text and "macro F1" in text
    rows = rows_of(place / "data", "cosg-known")
    for row, tasks in (("s-aux", ["aux"]), ("m2-vq", list(TASKS))):
        found, kept = results(place, row), stored(place, row, "codecfake-plus-cosg")
        assert list(found) == tasks and len(kept) == 19 + 25
        for task in tasks:
            confusion = np.array(found[task]["cosg-known"]["confusion"])
            best = [max(kept[trial.utterance_id][task].items(), key=lambda item: item[1])[0] for trial in rows]
            assert confusion.sum(0).tolist() == [best.count(label) for label in TASK_LABELS[task]]
    codecs = (place / "out" / "sastnet-table1-sources.txt").read_text(encoding="utf-8")
    assert "bigcodec" in codecs and "SINGLECODEC" in codecs and "clips" in codecs


def test_log_probabilities_are_those_of_the_first_window_of_a_clip(place, row="m2-vq"):
    run(place, "--only", row)
    kept, trials = stored(place, row, "codecfake-plus-cosg"), rows_of(place / "data", "cosg-all")
    for trial in trials[::9]:
        for task, expected in directly(place, row, trial.audio).items():
            assert kept[trial.utterance_id][task] == pytest.approx(expected, abs=1e-4)
    assert np.ptp([found["aux"]["semantic"] for found in kept.values()]) > 0.1


def test_finished_clips_are_not_scored_again(place, monkeypatch):
    run(place, "--only", "s-aux")
    before = results(place, "s-aux")
    monkeypatch.setattr(reproduce_tracing.ClassScorer, "__call__", None)  # would fail
    run(place, "--only", "s-aux")
    assert results(place, "s-aux") == before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal(), True), (io.StringIO(), False)])
def test_a_bar_counts_the_clips_on_a_terminal(stream, shown, tmp_path, monkeypatch):
    monkeypatch.setattr(trace_trials, "tqdm", functools.partial(tqdm, file=stream))
    clips = [(name, f"{name}.wav") for name in "abc"]
    trace_trials.compute_lines(clips, lambda block: [{} for _ in block], {}, tmp_path / "cors")
    assert ("cors: 100%" in stream.getvalue()) == ("3/3" in stream.getvalue()) == shown


def test_a_run_that_was_stopped_goes_on_and_comes_to_the_same(place, monkeypatch):
    run(place, "--only", "s-aux")
    whole = results(place, "s-aux")
    folder = place / "out" / "sastnet-table1-s-aux" / "log-probabilities" / "codecfake-plus-cors"
    journal = folder / "0.blocks"
    journal.write_bytes(journal.read_bytes()[:-100])  # as a crash leaves it: the last block is not whole
    made = []
    score = reproduce_tracing.ClassScorer.__call__
    monkeypatch.setattr(
        reproduce_tracing.ClassScorer, "__call__", lambda self, clips: made.append(len(clips)) or score(self, clips)
    )
    run(place, "--only", "s-aux")
    assert made == [28 - 16] and results(place, "s-aux") == whole


def test_log_probabilities_of_another_tracer_are_kept_unless_told(place, capsys):
    run(place, "--only", "s-aux")
    save_tracer(place / "tracers" / "s-aux", ("aux",), seed=7)
    run(place, "--only", "s-aux", code=1)
    assert "--overwrite" in capsys.readouterr().err
    run(place, "--only", "s-aux", "--overwrite")


def test_files_of_the_user_are_never_removed(place, capsys):
    folder = place / "out" / "sastnet-table1-s-aux" / "log-probabilities" / "codecfake-plus-cors"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("dear")
    for arguments in ([], ["--overwrite"]):
        run(place, "--only", "s-aux", *arguments, code=1)
        assert "holds mine.txt, which is no result of a run: pass another --out" in capsys.readouterr().err
    assert (folder / "mine.txt").read_text() == "dear"


def test_blocks_without_a_description_are_made_again(place):
    run(place, "--only", "s-aux")
    before = results(place, "s-aux")
    folder = place / "out" / "sastnet-table1-s-aux" / "log-probabilities" / "codecfake-plus-cors"
    (folder / "run.json").unlink()
    (folder / "0.blocks").write_bytes(b"of nobody knows what")
    run(place, "--only", "s-aux")
    assert results(place, "s-aux") == before


def test_a_clip_keeps_no_more_than_its_first_window(place):
    scorer = trace_trials.ClassScorer(SimpleNamespace(window_samples=100))
    (trial, *_) = rows_of(place / "data", "cosg-all")
    assert scorer._load(trial.audio).base is None and len(scorer._load(trial.audio)) == 100


def test_sets_without_silence_are_scored_without_it(place):
    pytest.importorskip("webrtcvad")
    run(place, "--only", "s-aux", target="sastnet-table2")
    assert list(results(place, "s-aux", "sastnet-table2")["aux"]) == list(TARGETS["sastnet-table2"].sets)
    (trial, *_) = rows_of(place / "data", "cosg-all")
    for folder, removed in (("codecfake-plus-cosg", False), ("codecfake-plus-cosg-no-silence", True)):
        expected = directly(place, "s-aux", trial.audio, removed)["aux"]
        assert stored(place, "s-aux", folder)[trial.utterance_id]["aux"] == pytest.approx(expected, abs=1e-4)


def test_silence_and_f1_are_set_beside_each_other(place, capsys):
    pytest.importorskip("webrtcvad")
    run(place, "--only", "s-aux", target="sastnet-figure2")
    text = capsys.readouterr().out
    assert "rank correlation of silence and F1" in text
    assert {path.name for path in (place / "out" / "sastnet-figure2").iterdir()} == {"cors.png", "cosg-all.png"}
    stored = json.loads((place / "out" / "sastnet-figure2.json").read_text(encoding="utf-8"))["rows"][0]["sources"]
    found = {source["name"]: source["silence"] for source in stored["aux"]["cosg-all"]}
    rows = [row for row in rows_of(place / "data", "cosg-all") if row.attack_id == "USLM"]
    trimmed = [remove_silence(load_audio(row.audio)) for row in rows]
    assert found["USLM"] == pytest.approx(np.mean([t.fraction_removed if t.voiced else 1 for t in trimmed]))


def test_the_silence_effect_is_over_codecs_and_untold_where_all_are_alike():
    shares, f1 = (0.1, 0.2, 0.3, 0.4), (0.9, 0.8, 0.6, 0.2)
    falling = [SourceResult(f"c{n}", 5, 1.0, *pair) for n, pair in enumerate(zip(f1, shares, strict=True))]
    alike = [replace(source, f1=0.5) for source in falling]
    row = TracingRow("r", "a row", "m", {}, {"vq": {}}, {"vq": {"cors": falling, "cosg-all": alike}})
    first, second = silence_effects([row])
    assert first.correlation.rho == pytest.approx(-1) and first.correlation.number == 4 and second.correlation is None
    assert "-1.00 (p = " in silence_text([first, second])


def test_confusion_matrices_are_drawn(place):
    run(place, "--only", "s-aux", target="sastnet-figure3")
    names = {path.name for path in (place / "out" / "sastnet-figure3").iterdir()}
    assert names == {"s-aux-aux-cosg-known.png", "s-aux-aux-cosg-all.png"}


@pytest.fixture
def sastnet(place):
    """A tiny SASTNet of the auxiliary objective in its row's place."""
    folder = place / "tracers" / "sastnet-table1-sastnet-aux"
    model = tiny_sastnet(task="aux")
    model.save_pretrained(folder)
    SASTNetFeatureExtractor(window_samples=WINDOW).save_pretrained(folder)
    return model


def test_decoders_and_attention_of_single_clips_are_shown(place, sastnet, capsys):
    run(place, "--only", "sastnet-aux", "--clips", "USLM/clip_0", target="sastnet-figure4")
    assert "USLM/clip_0: semantic, traced to" in capsys.readouterr().out
    (found,) = json.loads((place / "out" / "sastnet-figure4.json").read_text(encoding="utf-8"))
    assert (place / "out" / "sastnet-figure4" / "sastnet-aux-USLM_clip_0.png").stat().st_size > 1000
    (row,) = [row for row in rows_of(place / "data", "cosg-all") if row.utterance_id == "USLM/clip_0"]
    clip = torch.from_numpy(np.resize(load_audio(row.audio)[:WINDOW], WINDOW))[None]
    with torch.inference_mode():
        output = sastnet(clip, output_reconstruction_errors=True)
    errors = output.reconstruction_errors[0].mean(-1).tolist()
    assert found["reconstruction_errors"] == pytest.approx(
        dict(zip(TASK_LABELS["aux"], errors, strict=True)), rel=1e-4
    )
    expected = output.logits.softmax(-1)[0].tolist()
    assert list(found["probabilities"].values()) == pytest.approx(expected, abs=1e-4)


def test_a_clip_of_every_class_is_shown_where_none_is_named(place, sastnet, monkeypatch):
    monkeypatch.setattr(tracing_explanations, "draw_explanation", lambda path, *details, title: path)
    run(place, "--only", "sastnet-aux", "sastnet-vq", target="sastnet-figure4", code=3)
    found = json.loads((place / "out" / "sastnet-figure4.json").read_text(encoding="utf-8"))
    assert [clip["label"] for clip in found] == ["bonafide", "semantic", "disentanglement"]


def test_a_clip_that_is_not_there_is_named(place, sastnet, capsys):
    run(place, "--only", "sastnet-aux", "--clips", "USLM/none", target="sastnet-figure4", code=1)
    assert "no test clip is called USLM/none: ids are such as" in capsys.readouterr().err


def test_figure_4_is_of_sastnet_alone(place, capsys):
    save_tracer(place / "tracers" / "sastnet-aux", ("aux",))
    run(place, "--only", "sastnet-aux", target="sastnet-figure4", code=1)
    assert "this figure is of SASTNet alone" in capsys.readouterr().err


def test_a_sastnet_is_measured_as_any_other(place, sastnet):
    run(place, "--only", "sastnet-aux")
    assert list(results(place, "sastnet-aux")) == ["aux"]


def test_a_clip_that_cannot_be_read_counts_nowhere_and_is_told(place, corpora, capsys, tmp_path):
    (tmp_path / "data").unlink()
    cosg = tmp_path / "data" / "codecfake-plus-cosg"
    write_evaluation_list(cosg, "CoSG_ALL", [f"USLM clip_{n} - {label}" for n, label in enumerate(LABELS)])
    for number in range(len(LABELS)):
        path = cosg / "SLMdemos_16k" / "USLM" / f"clip_{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, number) if number else path.write_bytes(b"not audio")
    run(place, "--only", "s-aux", code=3)
    text = capsys.readouterr().out
    assert "2 times a clip could not be read" in text and "1 + 2" in text  # on "known" and on "all"
    assert "absent: CodecFake+ CoRS" in text


def test_rows_without_a_checkpoint_are_told_and_not_trained(place, capsys):
    run(place, "--only", "s-aux", "sastnet-aux", code=3)
    text = capsys.readouterr().out
    assert "sastnet-table1-sastnet-aux: no checkpoint was given for it" in text
    line = next(line for line in text.splitlines() if line.startswith("SASTNet, auxiliary"))
    assert "- / 97.90" in line and "- / 43.47" in line


def test_a_row_is_trained_once_and_measured(tmp_path, capsys):
    small_cors(tmp_path / "data" / "codecfake-plus-cors")
    changes = {
        "model.base_model": write_encoder(tmp_path / "encoder"),
        "model.encoder_channels": TINY_GRAPH["encoder_channels"],
        "model.graph_dims": TINY_GRAPH["graph_dims"],
        "num_samples": 8000,
        "max_steps": 1,
        "use_cpu": "true",
        "disable_tqdm": "true",
    }
    options = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--only", "d-aux", "--device", "cpu"]
    options += [text for key, value in changes.items() for text in (f"--{key}", str(value))]
    weights = tmp_path / "out" / "sastnet-table1-d-aux" / "model" / "model.safetensors"
    times = set()
    for _ in range(2):
        assert main(["reproduce", "sastnet-table1", *options]) == 3  # there is no CoSG
        times.add(weights.stat().st_mtime_ns)
    assert len(times) == 1
    assert "absent: CodecFake+ CoSG" in capsys.readouterr().out
    assert list(results(tmp_path, "d-aux")) == ["aux"]


def test_a_tuned_row_begins_with_its_baseline_which_is_trained_first(tmp_path, monkeypatch):
    (tmp_path / "codecfake-plus-cors").mkdir()
    trained = {}

    def train(recipe, folder, **options):
        trained[recipe.name] = recipe.model
        return SimpleNamespace(folder=folder)

    monkeypatch.setattr(reproduce_tracing, "train_recipe", train)
    # Its configuration would be read to check the recipe.
    monkeypatch.setattr("spooftrace.trainers.recipe_models._wav2vec2_config", lambda name: None)
    plan = TracingReproduction(
        "sastnet-table4", tmp_path, tmp_path / "out", overrides=(("model.audiomae", "mae.pth"), ("model.whisper", "w"))
    )
    for name in ("sastnet-table4-tuned-w2v2-m-mae", "sastnet-table4-w2v2-m-mae"):
        reproduce_tracing.model_folder(plan, name, print)
    assert list(trained) == ["sastnet-table4-s-aux", "sastnet-table4-tuned-w2v2-m-mae", "sastnet-table4-w2v2-m-mae"]
    baseline, tuned, pretrained = trained.values()
    assert tuned["wav2vec2"] == str(tmp_path / "out" / "sastnet-table4-s-aux" / "model")
    assert tuned["audiomae"] == pretrained["audiomae"] == "mae.pth" and "audiomae" not in baseline
    assert pretrained["wav2vec2"] == "facebook/wav2vec2-xls-r-300m" and "whisper" not in tuned


def test_weights_that_a_later_row_needs_are_asked_for_before_the_first_is_trained(place, monkeypatch, capsys):
    monkeypatch.setattr(reproduce_tracing, "train_recipe", None)  # would fail
    (place / "empty").mkdir()
    small_cors(place / "empty" / "codecfake-plus-cors")
    options = ["--data", str(place / "empty"), "--out", str(place / "out"), "--model.audiomae", "gone.pth"]
    for target in ("sastnet-table1", "sastnet-table4"):
        assert main(["reproduce", target, *options]) == 1
        assert "model.audiomae is no file: gone.pth; pass --model.audiomae FILE" in capsys.readouterr().err


def test_training_needs_its_corpus(place, capsys):
    (place / "empty" / "codecfake-plus-cosg").mkdir(parents=True)
    write_evaluation_list(place / "empty" / "codecfake-plus-cosg", "CoSG_ALL", cosg_all_lines())
    options = ["--data", str(place / "empty"), "--out", str(place / "out"), "--only", "s-aux"]
    assert main(["reproduce", "sastnet-table1", *options]) == 1
    assert "training needs" in capsys.readouterr().err


def test_a_model_that_traces_nothing_is_refused(place, capsys):
    tiny_folder(place / "tracers" / "s-vq")
    run(place, "--only", "s-vq", code=1)
    assert "answers none of the tasks vq, aux, dec" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("sastnet-table1", ["--only", "s-auxx"], "sastnet-table1 has no row 's-auxx': did you mean s-aux"),
        ("sastnet-table2", ["--only", "d-aux"], "sastnet-table2 has no row 'd-aux'"),
        ("sastnet-figure4", ["--only", "s-aux"], "sastnet-figure4 has no row 's-aux'"),
        ("sastnet-figure4", ["--only", "random"], "sastnet-figure4 shows models, and random is none"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(place, target, arguments, message, capsys):
    run(place, *arguments, code=1, target=target)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_without_any_corpus_there_is_nothing_to_do(place, capsys):
    assert main(["reproduce", "sastnet-table1", "--data", str(place / "tracers"), "--random"]) == 1
    assert "no test corpus is below" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "option"),
    [
        ("sastnet-table1", ["--score-rule", "log-odds"]),
        ("sastnet-table1", ["--clips", "a"]),
        ("mldg-table3", ["--random"]),
    ],
)
def test_options_of_the_other_paper_are_refused(place, target, option, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["reproduce", target, "--data", str(place / "data"), *option])
    assert caught.value.code == 2
    assert f"{option[0]} is no option of {target}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--random", "--only", "s-aux"], "--random is a row by itself: leave --only out"),
        (["--random", "--bacth-size", "4"], "--bacth-size is for training, and with --random nothing is trained"),
        (["--checkpoints", "c", "--max_steps", "4"], "--max_steps is for training, and with --checkpoints nothing is"),
    ],
)
def test_options_that_would_change_nothing_are_refused(place, options, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["reproduce", "sastnet-table1", "--data", str(place / "data"), *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_command_names_what_there_is():
    assert (*command.DETECTION_TARGETS, *TARGETS) == command.TARGETS
    for target in TARGETS:
        assert TracingReproduction(target, None, None).rows
