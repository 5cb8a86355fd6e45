"""The promises of `spooftrace trace`: JSON as documented, a table for people, exit codes as those of `detect`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from tiny_tracers import RATE, save_open_set, save_tracer, voice

from spooftrace.cli import main
from spooftrace.tracer import Tracer


FIELDS = ["path", "vq", "aux", "dec", "unknown", "reason", "model", "duration", "sha256"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = save_tracer(tmp_path_factory.mktemp("tracer"))
    save_open_set(folder, threshold=1e6)
    return folder


@pytest.fixture
def clip(tmp_path) -> Path:
    return write(tmp_path / "clip.wav", 1.2)


def write(path: Path, seconds: float, seed: int = 0) -> Path:
    soundfile.write(path, voice(seconds, seed), RATE)
    return path


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main(["trace", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_json_is_one_array_of_what_the_tracer_says(checkpoint, clip, tmp_path, capsys):
    other = write(tmp_path / "other.wav", 0.7, seed=1)
    code, out, err = run(capsys, "--json", clip, other, "--model", checkpoint)
    results = json.loads(out)
    assert (code, err) == (0, "") and [list(result) for result in results] == [FIELDS] * 2
    expected = [trace.to_dict() for trace in Tracer.from_pretrained(checkpoint).trace([clip, other])]
    assert results == expected


def test_the_table_shows_the_answers_the_unknown_flag_and_the_model(checkpoint, clip, capsys):
    code, out, err = run(capsys, clip, "--model", checkpoint)
    heading, row, blank, summary = out.splitlines()
    trace = Tracer.from_pretrained(checkpoint)(clip)
    assert (code, err, blank) == (0, "", "") and " ".join(heading.split()) == "path vq aux dec unknown duration note"
    for answer in (trace.vq, trace.aux, trace.dec):
        assert f"{answer.label} {100 * answer.probabilities[answer.label]:.1f} %" in row
    assert f"no {trace.unknown.score:.3g}" in row and row.endswith("1.20 s")
    assert "1 clip: 1 traced. Model: " in summary and "not proof" in summary


def test_an_unknown_source_is_flagged(checkpoint, clip, tmp_path, capsys):
    folder = save_tracer(tmp_path / "tracer")
    save_open_set(folder, threshold=0.0)
    _, out, _ = run(capsys, clip, "--model", folder)
    assert "YES" in out.splitlines()[1] and "1 clip: 1 of unknown source." in out


def test_an_abstention_shows_its_reason_and_no_answers(checkpoint, tmp_path, capsys):
    short = write(tmp_path / "short.wav", 0.2)
    code, out, _ = run(capsys, short, "--model", checkpoint)
    cells = out.splitlines()[1].split(maxsplit=7)
    assert code == 0 and cells[1:5] == ["-"] * 4 and cells[7] == "abstained: too short"
    assert "1 clip: 1 abstained." in out


def test_questions_without_a_model_are_dashes_and_the_missing_score_is_told(clip, tmp_path, capsys):
    folder = save_tracer(tmp_path / "tracer", ("dec",))
    _, out, _ = run(capsys, clip, "--model", folder)
    cells = out.splitlines()[1].split()
    assert cells[1:3] == ["-", "-"] and cells[6] == "-" and "no score for unknown sources beside the weights" in out


def test_bad_files_are_reported_in_their_place_and_the_code_is_3(checkpoint, clip, tmp_path, capsys):
    (tmp_path / "text.wav").write_text("no audio")
    arguments = ("absent.wav", clip, tmp_path / "text.wav", "--model", checkpoint)
    code, out, _ = run(capsys, "--json", *arguments)
    results = json.loads(out)
    assert code == 3 and [result.get("error") for result in results] == [
        "AudioNotFoundError",
        None,
        "UnreadableAudioError",
    ]
    code, out, _ = run(capsys, *arguments)
    assert code == 3 and "3 clips: 1 traced, 2 failed." in out and "no such file" in out


def test_without_any_file_no_model_is_loaded(capsys):
    code, out, err = run(capsys, "absent.wav", "--model", "no/such-model")
    assert (code, err) == (3, "") and "1 clip: 1 failed." in out


def test_several_models_are_combined(clip, tmp_path, capsys):
    folders = [save_tracer(tmp_path / task, (task,)) for task in ("vq", "dec")]
    code, out, _ = run(capsys, "--json", clip, "--model", *folders)
    (result,) = json.loads(out)
    assert code == 0 and result["aux"] is None and result["vq"]["label"] and result["dec"]["label"]
    _, out, _ = run(capsys, clip, "--model", folders[0], "--model", folders[1])
    assert f"Models: {folders[0]}" in out and f", {folders[1]}" in out


def test_what_cannot_be_traced_with_is_an_error_in_one_line(checkpoint, clip, tmp_path, capsys):
    detector = save_tracer(tmp_path / "bin", ("bin",))
    capsys.readouterr()  # the bar of saving
    for models, words in (([detector], "spooftrace detect"), ([checkpoint, checkpoint], "answered by")):
        code, out, err = run(capsys, clip, "--model", *models)
        assert (code, out, err.count("\n")) == (1, "", 1) and words in err
    code, _, err = run(capsys, clip, "--model", checkpoint, "--revision", "a", "b")
    assert code == 1 and "2 for 1" in err


def test_limits_reach_the_reader(checkpoint, clip, capsys):
    code, out, _ = run(capsys, clip, "--model", checkpoint, "--max-seconds", 1)
    assert code == 3 and "1.2 s" in out


@pytest.mark.parametrize("arguments", [[], ["x.wav", "--batch-size", "0"], ["x.wav", "--model"]], ids=" ".join)
def test_a_wrong_call_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["trace", *arguments])
    assert leaving.value.code == 2 and "usage:" in capsys.readouterr().err


def test_help_teaches_and_loads_nothing_heavy():
    script = (
        "import sys\n"
        "from spooftrace.cli import main\n"
        "try:\n"
        "    main(['trace', '--help'])\n"
        "except SystemExit as leaving:\n"
        "    assert leaving.code == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'soundfile', 'safetensors', 'tqdm', 'huggingface_hub'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert all(words in done.stdout for words in ("spooftrace trace clip.wav", "quantiser", "unknown", "--model"))
