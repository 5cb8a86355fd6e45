"""`spooftrace evaluate`: from score files and protocols to reports, figures, JSON and the Arena's files."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import warm_python
import yaml

from spooftrace.cli import main
from spooftrace.metrics import eer


HEADER = "utterance_id,label,attack_id,speaker_id,codec,split"


@pytest.fixture
def data(tmp_path):
    """A table of 120 trials in two splits, and the scores of a fair system: paths, rows and scores by id."""
    rng = np.random.default_rng(0)
    rows, scores = [], {}
    for index in range(120):
        label = "bonafide" if index % 2 else "spoof"
        attack = "" if label == "bonafide" else f"A0{index % 3}"
        split = "test" if index < 100 else "train"
        rows.append((f"u{index:03}", label, attack, f"s{index % 10}", ("alaw", "gsm")[index // 2 % 2], split))
        scores[f"u{index:03}"] = float(rng.normal(1 if label == "bonafide" else -1))
    table = tmp_path / "key.csv"
    table.write_text("\n".join([HEADER, *map(",".join, rows)]) + "\n")
    return table, write(tmp_path / "scores.txt", scores), rows, scores


def write(path, scores):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{name} {score!r}\n" for name, score in scores.items()))
    return path


def run(capsys, *arguments):
    code = main(["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_table_is_evaluated_and_everything_named(data, capsys):
    table, file, rows, scores = data
    code, out, err = run(capsys, file, table, "--split", "test", "--by", "attack_id", "codec", "--rounds", "50")
    kept = [row for row in rows if row[5] == "test"]
    expected = eer(*(np.array([scores[row[0]] for row in kept if row[1] == label]) for label in ("bonafide", "spoof")))
    assert (code, err) == (0, "")
    assert f"EER                {100 * expected.eer:5.2f} %   95 % interval" in out
    head = out.split("EER")[0]
    assert f"{table}, split test" in head and str(file) in head and "Model             unknown" in head
    assert "By attack_id: the spoofs of each group against all bona fide" in out
    assert "By codec: the spoofs of each group against the group's bona fide" in out
    assert "20 scores of the corpus's other splits" in out
    assert "unknown: the model does not say what it was trained on" in out


def test_json_is_one_object_and_equals_the_file(data, capsys, tmp_path):
    table, file, *_ = data
    code, out, err = run(capsys, file, table, "--no-intervals", "--json", "--out", tmp_path / "new" / "report.json")
    report = json.loads(out)
    assert code == 0 and report == json.loads((tmp_path / "new" / "report.json").read_text())
    assert report["overall"]["bonafide"] == report["overall"]["spoof"] == 60
    assert report["overall"]["eer_interval"] is None and err == f"wrote {tmp_path / 'new' / 'report.json'}\n"


def test_a_wrong_join_is_one_line_with_everything(data, capsys, tmp_path):
    table, _, _, scores = data
    broken = dict(list(scores.items())[:90]) | {"stranger": 1.0}
    code, out, err = run(capsys, write(tmp_path / "broken.txt", broken), table, "--split", "test")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "10 trials without a score (u090, " in err and "1 score of utterances that are not in the protocol" in err


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["a"], "pairs"),
        (["a", "b", "--config", "x"], "--corpus"),
        (["a", "b", "c", "d", "e", "f", "--corpus", "x", "y"], "3 pairs"),
        (["a", "b", "c", "d", "--compare", "x"], "one pair"),
        (["a", "b", "--arena", "x", "--system", "y"], "--dataset and --dataset-revision"),
        (["a", "b", "--rounds", "0"], "1000000"),
        (["a", "b", "--compare", "x", "--no-intervals"], "bootstrap"),
    ],
)
def test_a_wrong_call_is_2(arguments, text, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["evaluate", *arguments])
    assert leaving.value.code == 2 and text in capsys.readouterr().err


def test_clips_that_failed_make_it_3(data, capsys, tmp_path):
    table, _, _, scores = data
    folder = tmp_path / "out"
    write(folder / "scores.txt", {name: score for name, score in scores.items() if name != "u007"})
    failure = {"utterance_id": "u007", "error": "AudioError", "message": "'u007.wav' is empty"}
    (folder / "scores.jsonl").write_text(json.dumps(failure) + "\n")
    (folder / "run.json").write_text(json.dumps({"model": {"name": "owner/model", "revision": "0123abc"}}))
    code, out, _ = run(capsys, folder, table, "--no-intervals")
    assert code == 3 and "SKIPPED           1 bona fide, 0 spoof" in out and "u007: 'u007.wav' is empty" in out
    assert "Model             owner/model (0123abc)" in out


def test_several_corpora_are_pooled_and_averaged(data, capsys, tmp_path):
    table, file, _, scores = data
    other = shutil.copy(table, tmp_path / "other.csv")
    shifted = write(tmp_path / "shifted.txt", {name: score + 3 for name, score in scores.items()})
    code, out, _ = run(capsys, file, table, shifted, other, "--no-intervals")
    assert code == 0 and "Pooled EER" in out and "Average EER over 2 corpora" in out
    assert "120 bona fide, 120 spoof" in out


def test_a_corpus_is_its_test_split_and_the_others_are_put_aside(capsys, tmp_path):
    root = tmp_path / "LA"
    protocols = root / "ASVspoof2019_LA_cm_protocols"
    protocols.mkdir(parents=True)
    scores, rng = {}, np.random.default_rng(1)
    for part, letter, ending in (("train", "T", "trn"), ("dev", "D", "trl"), ("eval", "E", "trl")):
        lines = []
        for index in range(40):
            name = f"LA_{letter}_{1000000 + index}"
            key, attack = ("spoof", f"A{7 + index % 4:02}") if index % 2 else ("bonafide", "-")
            lines.append(f"LA_{index % 5:04} {name} - {attack} {key}")
            scores[name] = float(rng.normal(-1 if index % 2 else 1))
        (protocols / f"ASVspoof2019.LA.cm.{part}.{ending}.txt").write_text("\n".join(lines) + "\n")
    file = write(tmp_path / "scores.txt", scores)
    options = ("--corpus", "asvspoof2019-la", "--by", "attack_id", "--rounds", "20")
    code, out, err = run(capsys, file, root, *options, "--trained-on", "asvspoof2019-la", "codecfake-plus-cors", "itw")
    assert (code, err) == (0, "")
    assert "asvspoof2019-la (" in out and "split test" in out and "20 bona fide, 20 spoof" in out
    assert "80 scores of the corpus's other splits" in out and "bootstrap over 5 speakers" in out
    assert "asvspoof2019-la was trained on" in out and "codecfake-plus-cors takes its speech" in out
    assert "itw" not in out
    code, _, err = run(capsys, file, root, "--corpus", "asvspoof2019-la", "--split", "eval")
    assert code == 1 and "no split 'eval'" in err and "train, validation, test" in err
    clips = root / "ASVspoof2019_LA_eval" / "flac"
    clips.mkdir(parents=True)
    for index in range(30):
        (clips / f"LA_E_{1000000 + index}.flac").write_bytes(b"fLaC")
    code, out, _ = run(capsys, file, root, "--corpus", "asvspoof2019-la", "--missing-audio", "drop", "--no-intervals")
    assert code == 1  # the scores of the ten that are left out are too many
    write(file, {name: score for name, score in scores.items() if not name.startswith("LA_E_100003")})
    code, out, _ = run(capsys, file, root, "--corpus", "asvspoof2019-la", "--missing-audio", "drop", "--no-intervals")
    assert code == 0 and "without 10 trials whose clip is not there" in out and "15 bona fide, 15 spoof" in out


def test_an_arena_dataset_is_known_by_its_own_name_here_and_on_the_hub(capsys, tmp_path, hub):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    names = [f"u{index}" for index in range(8)]
    columns = {
        "path": [f"{name}.flac" for name in names],
        "audio": [{"bytes": b"", "path": None}] * 8,
        "label": [index % 2 for index in range(8)],
        "notes": [json.dumps({"utterance_id": name}) for name in names],
    }
    folder = tmp_path / "InTheWild" / "data"
    folder.mkdir(parents=True)
    write_table(arrow.table(columns), folder / "test-00000-of-00001.parquet")
    file = write(tmp_path / "s.txt", {name: float(index % 2) for index, name in enumerate(names)})
    options = ("--corpus", "arena", "--no-intervals", "--json", "--trained-on", "in-the-wild")
    _, out, _ = run(capsys, file, folder.parent, *options)
    report = json.loads(out)
    assert report["sources"][0]["corpus"] == "InTheWild" and "was trained on" in report["contamination"][0]
    name = "SpeechAntiSpoofingBenchmarks/InTheWild"
    hub.seed(name, {f"data/{path.name}": path.read_bytes() for path in folder.iterdir()}, kind="dataset")
    env = {**os.environ, **hub.env(home=tmp_path / "home")}
    done = warm_python.run("-m", "spooftrace", "evaluate", file, name, *options, env=env, cwd=tmp_path, check=True)
    there = json.loads(done.stdout)
    assert there["overall"] == report["overall"] and there["contamination"] == report["contamination"]
    assert name in there["sources"][0]["data"]


def test_a_model_that_says_what_it_was_trained_on_is_asked(data, capsys, tmp_path):
    table, _, _, scores = data
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "README.md").write_text("---\ndatasets: [owner/ASVspoof2019_LA]\nlicense: mit\n---\n# card\n")
    folder = write(tmp_path / "out" / "scores.txt", scores).parent
    (folder / "run.json").write_text(json.dumps({"model": {"name": str(model), "revision": "sha256:0"}}))
    keyed = tmp_path / "keyed.csv"
    lines = table.read_text().splitlines()
    keyed.write_text("\n".join([f"{lines[0]},corpus", *(f"{line},asvspoof2021-la" for line in lines[1:])]) + "\n")
    _, out, _ = run(capsys, folder, keyed, "--no-intervals", "--json")
    report = json.loads(out)
    assert report["trained_on"] == ["owner/ASVspoof2019_LA"]
    assert "VCTK" in report["contamination"][0]
    (model / "config.json").write_text('{"training_corpora": ["asvspoof5"]}')
    _, out, _ = run(capsys, folder, keyed, "--no-intervals", "--json")
    assert json.loads(out)["trained_on"] == ["asvspoof5"] and json.loads(out)["contamination"][0].startswith(
        "none known"
    )


def test_another_system_is_compared_on_the_same_trials(data, capsys, tmp_path):
    table, file, _, scores = data
    rng = np.random.default_rng(3)
    other = write(tmp_path / "other.txt", {name: score + float(rng.normal(0, 3)) for name, score in scores.items()})
    code, out, _ = run(capsys, file, table, "--compare", other, "--rounds", "50")
    assert code == 0 and "Compared on the same 60 bona fide and 60 spoof trials" in out and "McNemar p" in out
    write(other, dict(list(scores.items())[5:]))
    code, _, err = run(capsys, file, table, "--compare", other, "--rounds", "50")
    assert code == 1 and "5 trials without a score" in err


def test_figures_are_png_files(data, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    table, file, *_ = data
    code, _, err = run(capsys, file, table, "--compare", file, "--rounds", "20", "--figures", tmp_path / "figures")
    names = ["confusion.png", "det.png", "scores.png"]
    assert code == 0 and sorted(path.name for path in (tmp_path / "figures").iterdir()) == names
    assert all((tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert err.count("wrote ") == 3


def test_figures_without_matplotlib_name_the_extra(data, capsys, tmp_path, monkeypatch):
    table, file, *_ = data
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = run(capsys, file, table, "--figures", tmp_path / "figures")
    assert (code, out) == (1, "") and 'pip install "spooftrace[data]"' in err
    assert not (tmp_path / "figures").exists()


ARENA = ("--dataset", "SpeechAntiSpoofingBenchmarks/InTheWild", "--dataset-revision", "0123abc")


def test_the_arenas_files_are_written_and_checked(data, capsys, tmp_path):
    table, file, *_ = data
    arena = ("--arena", tmp_path / "repo", *ARENA, "--system", "Our Detector 2")
    code, _, err = run(capsys, file, table, "--split", "test", "--no-intervals", *arena)
    folder = tmp_path / "repo" / ".eval_results" / "SpeechAntiSpoofingBenchmarks" / "InTheWild"
    record = yaml.safe_load((folder / "result.yaml").read_text())
    assert code == 0 and err.count("wrote ") == 2
    assert record["system"]["slug"] == "our-detector-2" and record["scores"]["n_trials"] == 100
    assert len((folder / "scores.txt").read_text().splitlines()) == 100  # those of the other split are not the Arena's
    code, _, err = run(
        capsys, file, table, "--no-intervals", *arena[:2], *ARENA[:2], "--dataset-revision", "main", *arena[-2:]
    )
    assert code == 1 and "name the commit" in err


def test_help_imports_nothing_slow():
    script = (
        "import sys; from spooftrace.cli import main\n"
        "try: main(['evaluate', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('numpy', 'torch', 'soundfile', 'matplotlib', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and "examples:" in done.stdout


def test_torch_is_not_needed(data, tmp_path):
    table, file, *_ = data
    script = f"import sys; from spooftrace.cli import main; main(['evaluate', {str(file)!r}, {str(table)!r}, '--no-intervals']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
