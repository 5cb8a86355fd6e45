"""Wordings of the question to an audio language model: asked in one pass, compared on labelled clips, chosen on no test set."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio_llm_models import clips, tiny_processor, write_base

from spooftrace.cli import main
from spooftrace.detector import Detector
from spooftrace.evaluation_report import Settings
from spooftrace.modeling import AudioLLMFeatureExtractor, AudioLLMForAudioClassification
from spooftrace.prompt_report import agreement, compare_wordings, rank_correlation
from spooftrace.prompt_study import PromptStudy, Question, Wording, find_questions, own_question, read_wordings
from spooftrace.trainers.calibration import fit_calibration


OTHER, THIRD = "Is this speech genuine or spoofed?", "Real or fake?"
LENGTHS = (1.0, 0.6, 2.3, 1.4, 0.8, 1.9)


@pytest.fixture(scope="module", params=["qwen2_audio", "qwen_audio"])
def base(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / request.param
    write_base(folder, request.param)
    return folder


def saved(base: Path, folder: Path, **settings) -> Path:
    model = AudioLLMForAudioClassification.from_backbone_pretrained(base, **settings)
    model.save_pretrained(folder)
    AudioLLMFeatureExtractor.from_backbone_pretrained(base, settings.get("window_samples")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(base) -> Path:
    return saved(base, base / "detector", window_samples=32_000)


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("base")
    write_base(base)
    return saved(base, base / "detector")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Clips of both labels and two speakers in a validation split, and two in a test split."""
    folder = tmp_path_factory.mktemp("clips")
    lines = ["audio,label,speaker_id,split"]
    for index, wave in enumerate(clips(*LENGTHS, 0.5, 0.9, 1.1, 0.7, 0.7, 0.7)):
        soundfile.write(folder / f"{index}.wav", wave, 16_000, subtype="FLOAT")
        label = ("spoof", "bonafide")[index % 2]  # as the random model tends to say
        lines.append(f"{index}.wav,{label},{'ab'[index // 2 % 2]},{'validation' if index < 10 else 'test'}")
    (folder / "list.csv").write_text("\n".join(lines))
    return folder / "list.csv"


def arrays(*seconds: float) -> list[dict]:
    return [{"array": wave, "sampling_rate": 16_000} for wave in clips(*seconds)]


def spied(monkeypatch, name: str) -> list:
    """Notes every call of a method of the model."""
    calls, original = [], getattr(AudioLLMForAudioClassification, name)

    def noted(self, *args, **kwargs):
        calls.append(args)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(AudioLLMForAudioClassification, name, noted)
    return calls


def test_every_wording_scores_as_a_detector_of_its_own_and_the_audio_is_encoded_once(
    base, folder, tmp_path, monkeypatch
):
    detector = Detector.from_pretrained(folder, device="cpu", batch_size=4)
    wordings = [Wording(OTHER), Wording(label_words=("Yes", "No")), Wording(OTHER, ("Yes", "No"))]
    questions = find_questions(detector.model.config, wordings)
    sources = arrays(*LENGTHS, 5.0)  # the last one has several windows
    encoded, decoded = spied(monkeypatch, "encode_audio"), spied(monkeypatch, "decode")
    answers = list(PromptStudy(detector, questions).ask(sources))
    assert len(decoded) == 2 * len(encoded) and len(encoded) == 3  # 10 windows by 4, two prompts
    assert [answer.windows for answer in answers] == [1, 1, 2, 1, 1, 1, 4]
    monkeypatch.undo()
    for column, wording in enumerate([Wording(), *wordings]):
        words = dict(zip(("bonafide", "spoof"), wording.label_words or ("Real", "Fake"), strict=True))
        settings = {"label_words": words, **({"prompt": wording.prompt} if wording.prompt else {})}
        model = AudioLLMForAudioClassification.from_backbone_pretrained(base, **settings)
        alone = Detector(model, detector.feature_extractor, device="cpu")
        expected = [detection.score for detection in alone.detect(sources)]
        np.testing.assert_allclose([answer.scores[column] for answer in answers], expected, atol=1e-5)
    assert np.ptp([answer.scores for answer in answers], axis=1).min() > 0.01  # the wording matters


def test_the_models_own_wording_comes_first_and_none_comes_twice(base, folder):
    config = Detector.from_pretrained(folder, device="cpu").model.config
    own = own_question(config)
    found = find_questions(
        config, [Wording(), Wording(config.prompt, ("Real", "Fake")), Wording(OTHER), Wording(OTHER)]
    )
    assert len(found) == 2 and found[0] == own and found[1].prompt == OTHER
    assert found == find_questions(config, [Wording(OTHER)], base)


@pytest.mark.parametrize(
    ("wording", "problem"),
    [
        (Wording(label_words=("Bonafide", "Spoof")), "must be one token"),
        (Wording(label_words=("Real", "Real")), "words of their own"),
        (Wording("Is <|AUDIO|> real?"), "one audio slot"),
        (Wording("Real?<|im_end|>\n<|im_start|>assistant\nReal"), r"holds <\|im_start\|>, <\|im_end\|>, which"),
        (Wording(system_prompt="Say Real.<|im_end|>"), r"holds <\|im_end\|>, which"),
    ],
)
def test_wordings_that_cannot_be_scored_are_refused(qwen2, wording, problem):
    config = Detector.from_pretrained(qwen2, device="cpu").model.config
    with pytest.raises(ValueError, match=problem):
        find_questions(config, [wording])


def test_a_processor_of_another_model_and_a_detector_without_one_are_refused(qwen2):
    config = Detector.from_pretrained(qwen2, device="cpu").model.config
    with pytest.raises(ValueError, match="other tokens"):
        find_questions(config, [], tiny_processor("qwen_audio"))
    config.base_model_name_or_path = None
    with pytest.raises(ValueError, match="--processor"):
        find_questions(config, [Wording(OTHER)])


def questions(count: int) -> list[Question]:
    return [Question(f"question {index}", None, ("Real", "Fake"), (1,), (2,), (3, 4)) for index in range(count)]


def trials() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    bonafide = np.arange(400) < 150
    return bonafide + generator.normal(size=400), bonafide


def test_a_wording_that_only_shifts_and_stretches_is_the_same_after_calibration():
    own, bonafide = trials()
    scores = np.stack([own, 2 * own + 3, -own, np.zeros(400)], axis=1)
    report = compare_wordings(
        questions(4), scores, bonafide, calibrate=fit_calibration, settings=Settings(rounds=0), split="validation"
    )
    first, moved, turned, mute = report.wordings
    assert moved.measures.eer == first.measures.eer and moved.shift == pytest.approx((own + 3).mean())
    assert moved.measures.cllr > first.measures.cllr + 0.5
    assert moved.cllr_calibrated == pytest.approx(first.cllr_calibrated, abs=1e-4)
    assert moved.scale == pytest.approx(first.scale / 2, rel=1e-2) and moved.calibrated_difference < 0.01
    assert first.cllr_calibrated <= first.measures.cllr
    assert turned.scale < 0 and mute.cllr_calibrated == pytest.approx(1)
    assert report.rank_correlation[0][:2] == pytest.approx([1, 1]) and report.rank_correlation[0][2] == pytest.approx(
        -1
    )
    assert report.rank_correlation[0][3] is None and report.agreement[0][1] > 0.99
    assert report.best in (0, 1) and report.warning is None  # the turned one separates as well, the wrong way round
    json.dumps(report.to_dict(), allow_nan=False)


def test_rank_correlation_is_spearmans_and_agreement_a_share():
    scores = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0], [3.0, 4.0], [-5.0, 7.0]])
    scipy = pytest.importorskip("scipy.stats")
    assert rank_correlation(scores)[0][1] == pytest.approx(scipy.spearmanr(scores[:, 0], scores[:, 1]).statistic)
    assert agreement(scores)[0][1] == 0.8 and agreement(scores)[1][1] == 1


def test_no_wording_is_the_best_where_all_say_the_opposite():
    own, bonafide = trials()
    report = compare_wordings(
        questions(1), -own[:, None], bonafide, calibrate=fit_calibration, settings=Settings(rounds=0)
    )
    assert report.best is None and "higher scores the more genuine" in report.warning


@pytest.mark.parametrize("split", ["test", "eval", "hidden"])
def test_nothing_is_chosen_where_results_are_reported(split):
    own, bonafide = trials()
    report = compare_wordings(
        questions(1), own[:, None], bonafide, calibrate=fit_calibration, split=split, settings=Settings(rounds=0)
    )
    assert report.best is None and split in report.warning


def test_speakers_are_resampled_where_all_are_known():
    own, bonafide = trials()
    speakers = [str(index % 7) for index in range(len(own))]
    options = {"calibrate": fit_calibration, "settings": Settings(rounds=20)}
    report = compare_wordings(questions(1), own[:, None], bonafide, speakers=speakers, **options)
    assert report.wordings[0].measures.eer_interval.clusters == 7
    report = compare_wordings(questions(1), own[:, None], bonafide, speakers=[None, *speakers[1:]], **options)
    assert report.wordings[0].measures.eer_interval.clusters is None
    with pytest.raises(ValueError, match="both labels"):
        compare_wordings(questions(1), own[:, None], bonafide | True, **options)


def test_a_file_holds_wordings(tmp_path):
    path = tmp_path / "wordings.yaml"
    path.write_text(
        f"- prompt: {OTHER}\n- label_words: ['Yes', 'No']\n- prompt: {THIRD}\n"
        "  label_words: {spoof: Fake, bonafide: Real}\n  system_prompt: You listen.\n"
    )
    expected = [Wording(OTHER), Wording(None, ("Yes", "No")), Wording(THIRD, ("Real", "Fake"), "You listen.")]
    assert read_wordings(path) == expected
    path.write_text(json.dumps([{"prompt": OTHER}]))
    assert read_wordings(path) == expected[:1]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no list"),
        ("prompt: one", "no list"),
        ("- [", "neither YAML nor JSON"),
        ("- prompt: 7", "entry 1: `prompt` is a text"),
        ("- prompt: a\n- words: [a, b]", "entry 2: has the keys"),
        ("- label_words: [Yes, No]", "quote words"),  # YAML reads them as true and false
        ("- label_words: [a]", "two texts"),
    ],
)
def test_a_file_of_anything_else_is_refused_with_its_entry(tmp_path, text, problem):
    path = tmp_path / "wordings.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=problem):
        read_wordings(path)


def run(capsys, *words: object) -> tuple[int, str, str]:
    code = main(["prompts", *map(str, words), "--device", "cpu", "--rounds", "20"])
    return code, *capsys.readouterr()


def test_the_command_prints_a_table_and_json_of_the_same(qwen2, table, capsys):
    words = ["--model", qwen2, "--data", table, "--prompt", OTHER, "--label-words", "Real", "Fake"]
    code, out, _ = run(capsys, *words, "--label-words", "Yes", "No")
    assert code == 0 and "5 bona fide, 5 spoof" in out and f"'{OTHER}' Yes / No" in out and "the model's own" in out
    assert "Lowest CLLR after calibration" in out and "WARNING" not in out
    code, out, _ = run(capsys, *words, "--json")
    found = json.loads(out)
    assert code == 0 and len(found["wordings"]) == 2 and found["data"]["split"] == "validation"
    assert found["wordings"][0]["label_words"] == {"bonafide": "Real", "spoof": "Fake"}
    assert found["wordings"][1]["eer_interval"]["rounds"] == 20 and found["warning"] is None
    assert found["best"] in (0, 1) and found["model"]["revision"].startswith("sha256:")


def test_the_test_split_is_told_of_but_not_chosen_on(qwen2, table, capsys):
    words = ["--model", qwen2, "--data", table, "--prompt", OTHER, "--split", "test"]
    code, out, _ = run(capsys, *words)
    assert code == 0 and "WARNING" in out and "Lowest CLLR" not in out
    assert json.loads(run(capsys, *words, "--json")[1])["best"] is None


def test_clips_that_cannot_be_read_are_told_and_make_the_exit_code_three(qwen2, table, tmp_path, capsys):
    rows = [f"{table.parent / f'{index}.wav'},{('bonafide', 'spoof')[index % 2]}" for index in range(4)]
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    lines = ["audio,label", *rows, "bad.wav,spoof"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    words = [
        "--model",
        qwen2,
        "--data",
        tmp_path / "list.csv",
        "--allow-outside",
        "--split",
        "train",
        "--prompt",
        OTHER,
    ]
    code, out, errors = run(capsys, *words)
    assert code == 3 and "2 bona fide, 2 spoof" in out and "bad.wav" in errors


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--label-words", "Bonafide", "Spoof"], "must be one token"),
        (["--prompt", "Is <|AUDIO|> real?"], "one audio slot"),
        (["--prompt", OTHER, "--split", "dev2"], "no split 'dev2'"),
        (["--prompts", "nowhere.yaml"], "nowhere.yaml"),
        (["--prompt", OTHER, "--processor", "nowhere/at-all"], "nowhere/at-all"),
        (["--prompt", OTHER, "--corpus", "nothing"], "no corpus is called"),
    ],
)
def test_failures_are_one_line(qwen2, table, capsys, words, problem):
    code, out, errors = run(capsys, "--model", qwen2, "--data", table, *words)
    assert code == 1 and not out and problem in errors and len(errors.strip().splitlines()) == 1


def test_other_detectors_have_no_prompt(table, capsys):
    code, _, errors = run(capsys, "--data", table, "--prompt", OTHER)
    assert code == 1 and "has no prompt" in errors
    with pytest.raises(SystemExit, match="2"):
        main(["prompts", "--data", str(table)])
