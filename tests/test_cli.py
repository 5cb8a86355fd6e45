"""The promises of the command `spooftrace`: light help, exit codes, JSON for programs, a table for people."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_runs import tiny_folder

import spooftrace
from spooftrace.cli import explain, main
from spooftrace.cli.detect import timeline
from spooftrace.results import Detection, Window, printable


RATE = 16_000
FIELDS = ["path", "score", "probability_bonafide", "verdict", "reason", "duration", "windows", "model", "sha256"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    calibration = {"scale": 1.0, "bias": 0.0, "fitted_on": "nothing"}
    return str(tiny_folder(tmp_path_factory.mktemp("tiny"), calibration=calibration))


@pytest.fixture
def clip(tmp_path) -> Path:
    return buzz(tmp_path / "clip.wav", 1.2)


def buzz(path: Path, seconds: float) -> Path:
    """A file with a voiced sound of 120 Hz."""
    time = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 120 * order * time) / order for order in range(1, 10))
    soundfile.write(path, 0.1 * tone, RATE, format="WAV")
    return path


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def rows(out: str) -> list[list[str]]:
    """The table's cells, of the lines between its heading and the summary."""
    return [line.split() for line in out.split("\n\n")[0].splitlines()[1:]]


# --- the program -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["detect", "--help"], ["doctor", "--help"], []])
def test_help_and_version_load_nothing_heavy(arguments):
    script = (
        "import sys\n"
        "from spooftrace.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as leaving:\n"
        "    assert leaving.code == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'soundfile', 'soxr', 'tqdm', 'huggingface_hub', 'datasets'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_help_teaches_by_example(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(words in text for words in ("spooftrace detect clip.wav", "detect", "convert", "doctor", "exit codes"))


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"spooftrace {spooftrace.__version__}\n"


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "spooftrace"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage: spooftrace" in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["juggle"],
        ["detect"],
        ["detect", "x.wav", "--threshold", "1.5"],
        ["detect", "x.wav", "--threshold", "nan"],
        ["detect", "x.wav", "--batch-size", "0"],
        ["detect", "x.wav", "--max-seconds", "inf"],
        ["detect", "x.wav", "--json", "--timeline"],
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert leaving.value.code == 2 and "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, text",
    [
        (
            ["detect", "a.wav", "--jsno"],
            "spooftrace detect: error: unrecognized arguments: --jsno; did you mean --json?",
        ),
        (
            ["detect", "a.wav", "--json", "b.wav"],
            "arguments: b.wav; put all of them before the options, or all behind",
        ),
        (["corpus", "verify", "own", "x", "--chek-audio", "decode"], "verify: error: unrecognized arguments: --chek"),
        (["convert", "aasist", "a", "b", "--overwite"], "did you mean --overwrite?"),
        (["doctor", "x"], "doctor: error: unrecognized arguments: x\n"),
        (["--jsno"], "spooftrace: error: unrecognized arguments: --jsno\n"),
    ],
)
def test_what_a_command_does_not_know_is_told_with_its_own_usage(arguments, text, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert leaving.value.code == 2 and text in capsys.readouterr().err


def test_an_error_is_one_line_and_its_traceback_is_for_debug(clip, tmp_path, capsys):
    call = ("detect", clip, "--model", tmp_path)
    code, out, err = run(capsys, *call)
    assert (code, out, err.count("\n")) == (1, "", 1) and "safetensors" in err
    for debug in (("--debug", *call), (*call, "--debug")):
        code, out, err = run(capsys, *debug)
        assert code == 1 and "Traceback" in err and "CheckpointError" in err


@pytest.mark.parametrize(
    "error, text",
    [
        (ValueError("two\n  lines"), "error: two lines"),
        (ModuleNotFoundError("no", name="peft.tuners"), 'pip install "spooftrace[lora]"'),
        (ModuleNotFoundError("no", name="pyarrow.parquet"), 'pip install "spooftrace[data]"'),
        (ModuleNotFoundError("no", name="juggling"), "pip install juggling"),
        (ZeroDivisionError("division by zero"), "unexpected ZeroDivisionError"),
    ],
)
def test_errors_are_explained_with_a_remedy(error, text):
    assert text in explain(error)


def test_training_asks_for_all_that_it_needs_at_once():
    assert 'pip install "spooftrace[train]"' in explain(ModuleNotFoundError("no", name="scipy"), "train")
    assert explain(ModuleNotFoundError("no", name="juggling"), "train").endswith("pip install juggling")


def test_the_problems_of_a_table_keep_their_lines(tmp_path, capsys):
    table = tmp_path / "list.csv"
    table.write_text("audio\na.wav\nb.wav\n")
    code, _, err = run(capsys, "score", table, "--out", tmp_path / "out")
    assert code == 1 and [line.split(":")[0].strip() for line in err.splitlines()[1:]] == ["line 2", "line 3"]


def test_a_reader_that_leaves_early_is_no_drama():
    command = [sys.executable, "-m", "spooftrace", "detect", "--json", "absent.wav"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.wait(timeout=60) == 1 and process.stderr.read() == ""
    process.stderr.close()


def test_a_closed_standard_output_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # what Python makes of `>&-`
    assert main(["detect", "/nowhere/at/all.wav"]) == 3


# --- detect ----------------------------------------------------------------------------------------------------------


def test_detect_prints_a_table_and_one_line_about_the_model(checkpoint, clip, capsys):
    code, out, err = run(capsys, "detect", clip, "--model", checkpoint)
    heading, row, blank, summary = out.splitlines()
    assert heading.split() == ["path", "verdict", "P(bona", "fide)", "score", "duration", "note"]
    path, verdict, probability, percent, score, duration, unit = row.split()
    assert (path, percent, duration, unit) == (str(clip), "%", "1.20", "s") and verdict in ("bonafide", "spoof")
    assert float(probability) == pytest.approx(100 / (1 + math.exp(-float(score))), abs=0.3)
    assert checkpoint in summary and "evidence, not proof" in summary
    assert (code, blank, err) == (0, "", "")


def test_json_has_exactly_the_documented_fields(checkpoint, clip, capsys):
    code, out, _ = run(capsys, "detect", "--json", clip, "--model", checkpoint)
    (result,) = json.loads(out)
    assert list(result) == FIELDS and code == 0
    assert [list(window) for window in result["windows"]] == [["start", "end", "score"]] * 4
    assert result["windows"][0]["start"] == 0 and result["windows"][-1]["end"] == result["duration"] == 1.2
    assert result["model"]["name"] == checkpoint and len(result["sha256"]) == 64


def test_bad_inputs_are_reported_in_place_and_give_3(checkpoint, clip, tmp_path, capsys):
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "hollow").mkdir()
    bad = [tmp_path / "text.wav", tmp_path / "absent.wav", tmp_path / "hollow", tmp_path / "*.mp3"]
    other = buzz(tmp_path / "other.wav", 0.8)
    code, out, _ = run(capsys, "detect", "--json", clip, *bad, other, "--model", checkpoint)
    results = json.loads(out)
    assert code == 3
    assert [result["path"] for result in results] == [str(clip), *map(str, bad), str(other)]
    assert [list(result) for result in results[1:-1]] == [["path", "error", "message"]] * 4
    assert list(results[0]) == list(results[-1]) == FIELDS
    code, out, _ = run(capsys, "detect", clip, *bad, other, "--model", checkpoint)
    assert code == 3 and [row[1] for row in rows(out)] == [
        results[0]["verdict"],
        *["error"] * 4,
        results[-1]["verdict"],
    ]
    assert "6 clips" in out and "4 failed" in out


def test_without_any_readable_input_no_model_is_loaded(capsys, tmp_path):
    code, out, _ = run(capsys, "detect", tmp_path / "absent.wav", "--model", "owner/never-asked-for")
    assert code == 3 and "1 clip: 1 failed." in out


def test_an_abstention_is_not_a_failure(checkpoint, tmp_path, capsys):
    short = buzz(tmp_path / "short.wav", 0.1)
    code, out, _ = run(capsys, "detect", short, "--model", checkpoint)
    assert code == 0 and "abstain" in out and "too short" in out and "%" not in rows(out)[0]
    samples = np.full(RATE, np.nan, dtype=np.float32)
    soundfile.write(tmp_path / "nan.wav", samples, RATE, subtype="FLOAT")
    code, out, _ = run(capsys, "detect", "--json", tmp_path / "nan.wav", "--model", checkpoint)
    (result,) = json.loads(out)
    assert code == 0 and result["reason"] == "not finite" and result["score"] is None


def test_folders_and_patterns_are_searched(checkpoint, clip, tmp_path, capsys):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    inner = Path(shutil.copy(clip, tmp_path / "deep" / "er" / "inner.wav"))
    code, out, _ = run(capsys, "detect", "--json", tmp_path / "deep", tmp_path / "c*.wav", "--model", checkpoint)
    assert [result["path"] for result in json.loads(out)] == [str(inner), str(clip)] and code == 0


@pytest.mark.skipif(os.name == "nt", reason="such names cannot exist there")
@pytest.mark.parametrize("name", ["two words.wav", "new\nline.wav", "\x1b[31mred.wav", "-dash.wav", "ünï.wav"])
def test_odd_names_reach_programs_as_they_are_and_people_escaped(checkpoint, clip, tmp_path, capsys, name):
    folder = tmp_path / "odd"
    (folder / "in").mkdir(parents=True)
    shutil.copy(clip, folder / name)
    path = f"{folder}/in/../{name}"
    _, out, _ = run(capsys, "detect", "--json", path, "--model", checkpoint)
    assert json.loads(out)[0]["path"] == path
    _, out, _ = run(capsys, "detect", path, "--model", checkpoint)
    assert printable(path) in out and len(out.splitlines()) == 4
    assert all(character.isprintable() for character in out.replace("\n", ""))


def test_names_that_are_not_unicode_are_printable():
    assert printable("caf\udce9 \t\x07 é") == "caf\\udce9 \\t\\x07 é"


def test_the_timeline_shows_the_windows(checkpoint, clip, capsys):
    _, out, _ = run(capsys, "detect", "--timeline", clip, "--model", checkpoint)
    lines = out.split("\n\n")[0].splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["0.00", "0.25", "0.50", "0.70"]
    assert all(line.count("#") + line.count(".") >= 30 for line in lines)


def test_a_long_timeline_shows_the_least_genuine_window_of_each_row():
    windows = [Window(float(i), i + 2.0, -5.0 if i == 777 else 1.0) for i in range(1000)]
    detection = Detection("x", 1.0, 0.7, "bonafide", None, 1001.0, windows, {}, "")
    lines = list(timeline(detection, lambda score: 1 / (1 + math.exp(-score))))
    assert len(lines) == 40 and next(line for line in lines if "-5.00" in line).split()[:3] == [
        "775.00",
        "-",
        "801.00",
    ]


def test_the_threshold_moves_the_verdict_and_the_limit_refuses(checkpoint, clip, capsys):
    for threshold, verdict in ((1e-9, "bonafide"), (1 - 1e-9, "spoof")):
        _, out, _ = run(capsys, "detect", clip, "--model", checkpoint, "--threshold", threshold)
        assert rows(out)[0][1] == verdict
    code, out, _ = run(capsys, "detect", clip, "--model", checkpoint, "--max-seconds", 1)
    assert code == 3 and "1.2 s" in out


def test_a_stranger_label_is_asked_for(checkpoint, clip, capsys):
    code, out, err = run(capsys, "detect", clip, "--model", checkpoint, "--bonafide-label", "real")
    assert code == 1 and out == "" and "0: 'bonafide', 1: 'spoof'" in err and "--bonafide-label" in err


def test_an_interruption_leaves_valid_json_and_130(checkpoint, clip, capsys, monkeypatch):
    from spooftrace.detector import Detector

    score = Detector.detect

    def interrupted(self, sources, **options):
        yield from score(self, [clip], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Detector, "detect", interrupted)
    other = buzz(clip.parent / "other.wav", 0.8)
    code, out, err = run(capsys, "detect", "--json", clip, other, "--model", checkpoint)
    assert code == 130 and "interrupted" in err and list(json.loads(out)[0]) == FIELDS


@pytest.mark.parametrize("count, bar", [(1, False), (5, True)])
def test_a_progress_bar_appears_on_a_terminal_when_there_is_more_to_do(
    checkpoint, tmp_path, capsys, monkeypatch, count, bar
):
    for number in range(count):
        buzz(tmp_path / f"{number}.wav", 0.6)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _, out, err = run(capsys, "detect", tmp_path, "--model", checkpoint)
    assert ("s of audio" in err) is bar and len(rows(out)) == count
