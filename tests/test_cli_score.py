"""The promises of `spooftrace score`: every kind of input, files for evaluation, and a command that may be killed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import warm_python
from corpus_trees import write_asvspoof2019
from corpus_trees_other import write_parquet
from tiny_runs import RATE, contents, tiny_folder, write_clips

from spooftrace.cli import main


COUNT = 9


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return str(tiny_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), COUNT)


@pytest.fixture
def score(checkpoint, tmp_path, capsys):
    """Runs the command into `tmp_path/out`; returns exit code, output and errors."""

    def run(*arguments: object, out: str = "out") -> tuple[int, str, str]:
        words = ["score", *map(str, arguments), "--out", str(tmp_path / out), "--model", checkpoint, "--device", "cpu"]
        code = main(words)
        return code, *capsys.readouterr()

    return run


def ids(out: Path) -> list[str]:
    return [line.split()[0] for line in (out / "scores.txt").read_text(encoding="utf-8").splitlines()]


def place(original: Path, *targets: Path) -> None:
    """Copies of the clips, in their order, under other names."""
    for source, target in zip(sorted(original.iterdir()), targets, strict=False):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


# --- inputs ----------------------------------------------------------------------------------------------------------


def test_a_folder_gives_paths_without_white_space_as_ids(score, original, tmp_path):
    names = ["b/2.flac", "a one/1.flac", "a one/1.wav", "100%.flac", "é.flac", "deep/er/x.y.flac"]
    place(original, *(tmp_path / "in" / name for name in names))
    code, out, _ = score(tmp_path / "in")
    assert code == 0 and "6 clips: 6 scored" in out and str(tmp_path / "out") in out
    assert ids(tmp_path / "out") == ["100%25", "a%20one/1.flac", "a%20one/1.wav", "b/2", "deep/er/x.y", "é"]


def test_files_and_patterns_are_named_below_their_common_folder(score, original, tmp_path):
    names = ["in/a/1.flac", "in/b/1.flac", "in/b/2.flac", "in/b/2.wav"]
    place(original, *(tmp_path / name for name in names))
    code, _, _ = score(tmp_path / "in" / "b", tmp_path / "in" / "a" / "*.flac", tmp_path / "in" / "b" / "1.flac")
    assert code == 0 and ids(tmp_path / "out") == ["b/1", "b/2.flac", "b/2.wav", "a/1"]
    score(tmp_path / "in" / "a" / "1.flac", out="one")
    assert ids(tmp_path / "one") == ["1"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_names_clips_and_order_and_needs_no_labels(score, original, tmp_path, kind):
    place(original, *(tmp_path / "in" / f"{index}.flac" for index in range(3)))
    rows = [("two", "2.flac", "test"), ("zero", "0.flac", "dev"), ("one", "1.flac", "test")]
    text = {
        "csv": "utterance_id,audio,split\n" + "".join(f"{','.join(row)}\n" for row in rows),
        "jsonl": "".join(
            json.dumps(dict(zip(("utterance_id", "audio", "split"), row, strict=True))) + "\n" for row in rows
        ),
    }
    table = tmp_path / "in" / f"list.{kind}"
    table.write_text(text[kind])
    assert score(table)[0] == 0 and ids(tmp_path / "out") == ["two", "zero", "one"]
    assert score(table, "--split", "test", out="part")[0] == 0 and ids(tmp_path / "part") == ["two", "one"]


def test_problems_of_a_table_are_told_before_anything_is_scored(score, original, tmp_path):
    place(original, tmp_path / "in" / "0.flac")
    table = tmp_path / "in" / "list.csv"
    table.write_text("utterance_id,audio\nx,0.flac\nx,0.flac\na b,0.flac\n")
    code, _, err = score(table)
    assert code == 1 and "line 3" in err and "line 4" in err and "white space" in err
    assert not (tmp_path / "out").exists()


def test_a_table_may_point_outside_only_when_it_is_trusted(score, original, tmp_path):
    (tmp_path / "list.csv").write_text(f"audio\n{min(original.iterdir())}\n")
    assert score(tmp_path / "list.csv")[0] == 1
    assert score(tmp_path / "list.csv", "--allow-outside")[0] == 0


def test_a_corpus_is_scored_by_split(score, original, tmp_path):
    write_asvspoof2019(tmp_path)
    code, _, err = score(tmp_path / "LA", "--corpus", "asvspoof2019-la")
    assert code == 1 and "--split train or validation or test" in err
    assert score(tmp_path / "LA", "--corpus", "asvspoof2019-la", "--split", "test")[0] == 0
    assert ids(tmp_path / "out") == ["LA_E_2834763", "LA_E_8877452", "LA_E_5932896"]
    next((tmp_path / "LA").rglob("LA_E_8877452.flac")).unlink()
    arguments = (tmp_path / "LA", "--corpus", "asvspoof2019-la", "--split", "test")
    assert score(*arguments, out="part")[0] == 1
    assert score(*arguments, "--missing-audio", "drop", out="part")[0] == 0
    assert ids(tmp_path / "part") == ["LA_E_2834763", "LA_E_5932896"]


def write_dataset(folder: Path, original: Path) -> Path:
    """Parquet files as `push_to_hub` makes them, with an Audio column that a reader would decode by default."""
    text = {"dtype": "string", "_type": "Value"}
    features = {"audio": {"_type": "Audio", "sampling_rate": RATE}, "utterance_id": text, "other": text}
    paths = sorted(original.iterdir())
    for shard, part in enumerate((paths[:5], paths[5:])):
        columns = {
            "audio": [{"bytes": path.read_bytes(), "path": path.name} for path in part],
            "utterance_id": [f"u-{path.stem}" for path in part],
            "other": [f"with blank {path.stem}" for path in part],
        }
        write_parquet(folder / f"data/test-{shard:05}-of-00002.parquet", columns, features)
    return folder


HUB = """
import sys
from pathlib import Path
from spooftrace.cli import main
model, out, folder, parquet = sys.argv[1:]
def score(*arguments, to):
    return main(["score", *arguments, "--out", str(Path(out) / to), "--model", model, "--device", "cpu", "--block-size", "2"])
hub = ["--dataset", "alice/data", "--split", "test"]
assert score(*hub, to="named") == 0
assert score(*hub, "--dataset-revision", "main", to="named") == 0  # the same commit
assert score(*hub, "--id-column", "other", to="blank") == 1
assert score(*hub, "--id-column", "absent", to="absent") == 1
assert score(folder, to="folder") == 0
# A corpus whose audio lies in parquet files is read through the dataset library as well.
assert score(parquet, "--corpus", "codecfake", to="corpus") == 0
assert score(parquet, "--corpus", "codecfake", to="corpus") == 0
"""


def test_parquet_is_scored_from_the_hub_at_a_pinned_commit_and_from_a_corpus(hub, checkpoint, original, tmp_path):
    commit = hub.seed("alice/data", write_dataset(tmp_path / "work", original), kind="dataset")
    paths = sorted(original.iterdir())[:4]
    write_parquet(
        tmp_path / "codecfake" / "data" / "train-00000-of-00001.parquet",
        {
            "audio": [
                {"bytes": path.read_bytes(), "path": f"p225_00{index}.flac"} for index, path in enumerate(paths)
            ],
            "label": ["genuine"] * 4,
            "speaker_id": ["p225"] * 4,
            "codec_name": ["genuine"] * 4,
        },
    )
    done = warm_python.run("-c", HUB, checkpoint, tmp_path, original, tmp_path / "codecfake", env=hub.env())
    assert done.returncode == 0, done.stderr
    assert "white space" in done.stderr and "no column 'absent'" in done.stderr
    assert done.stdout.count("nothing was left to score") == 2
    named = [line.split() for line in (tmp_path / "named" / "scores.txt").read_text().splitlines()]
    plain = [line.split() for line in (tmp_path / "folder" / "scores.txt").read_text().splitlines()]
    assert named == [[f"u-{name}", value] for name, value in plain] and len(plain) == COUNT
    corpus = [line.split()[1] for line in (tmp_path / "corpus" / "scores.txt").read_text().splitlines()]
    assert corpus == [value for _, value in plain[:4]]
    run = json.loads((tmp_path / "named" / "run.json").read_text())
    assert "alice/data" in run["inputs"]["stream"] and commit in run["inputs"]["stream"]


# --- calls and answers -----------------------------------------------------------------------------------------------


def test_clips_without_a_score_are_counted_and_make_the_exit_code_three(score, original, tmp_path):
    place(original, *(tmp_path / "in" / f"{index}.flac" for index in range(3)))
    (tmp_path / "in" / "empty.wav").write_bytes(b"")
    (tmp_path / "in" / "text.mp3").write_text("no audio")
    soundfile.write(tmp_path / "in" / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    code, out, _ = score(tmp_path / "in")
    assert code == 3 and "6 clips: 3 scored" in out and "2 failed" in out and "1 without a verdict" in out
    assert score(tmp_path / "in")[0] == 3  # a finished run answers the same
    assert ids(tmp_path / "out") == ["0", "1", "2"]


def test_another_setting_is_refused_in_one_line(score, original, tmp_path):
    assert score(original)[0] == 0
    before = contents(tmp_path / "out")
    code, _, err = score(original, "--batch-size", "3")
    assert code == 1 and err.count("\n") == 1
    assert "options.batch_size 16 (now 3)" in err and "--overwrite" in err and "--out" in err
    assert contents(tmp_path / "out") == before
    assert score(original, "--batch-size", "3", "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "--out"),
        (["--out", "x"], "an INPUT is needed"),
        (["a", "--out", "x", "--dataset", "o/n"], "takes no INPUT"),
        (["--out", "x", "--dataset", "o/n"], "needs --split"),
        (["a", "--out", "x", "--corpus", "own", "--dataset", "o/n"], "exclude each other"),
        (["a", "b", "--out", "x", "--corpus", "own"], "one INPUT"),
        (["a", "--out", "x", "--config", "c"], "--config is for"),
        (["a", "--out", "x", "--id-column", "c"], "for --dataset"),
        (["a", "--out", "x", "--threads", "0"], "at least 1"),
        ([__file__, "--out", "x", "--split", "test"], "files have none"),
        (["a", "--out", __file__], "is a file"),
    ],
)
def test_wrong_calls_exit_with_two(capsys, arguments, problem):
    with pytest.raises(SystemExit) as leaving:
        main(["score", *arguments])
    assert leaving.value.code == 2 and problem in capsys.readouterr().err


def test_a_table_is_alone(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("audio\n")
    with pytest.raises(SystemExit) as leaving:
        main(["score", str(tmp_path / "list.csv"), str(tmp_path), "--out", str(tmp_path / "out")])
    assert leaving.value.code == 2 and "only INPUT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["{tmp}/nothing"], "no such file or folder"),
        (["{tmp}", "--corpus", "juggling"], "no corpus is called 'juggling'"),
        (["{clips}", "--model", "{tmp}/no/model/here"], "neither a folder"),
    ],
)
def test_failures_are_one_line(tmp_path, original, capsys, arguments, problem):
    words = [word.format(tmp=tmp_path, clips=original) for word in arguments]
    assert main(["score", *words, "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert problem in err and "Traceback" not in err and not (tmp_path / "out").exists()


def test_help_loads_nothing_heavy():
    script = (
        "import sys\nfrom spooftrace.cli import main\ntry:\n    main(['score', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'soundfile', 'tqdm', 'datasets', 'huggingface_hub'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "byte for byte" in done.stdout and "accelerate launch" in done.stdout


# --- killed, and shared ----------------------------------------------------------------------------------------------

KILLED = """
import os, random, signal, sys, time
for name in ("accelerate", "datasets", "pandas", "pyarrow"):  # folders and tables are scored without the extras
    sys.modules[name] = None
import spooftrace.scoring  # before forking, so that each attempt starts at once
from spooftrace.cli import main

def kill_until_done(words):
    kills, longest, code = 0, 0.2, None
    while code is None:
        pid = os.fork()
        if pid == 0:
            os._exit(main(words))
        time.sleep(random.uniform(0, longest))
        longest *= 1.1  # a slow machine gets there too
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        kills += 1
        if os.WIFEXITED(status):
            code = os.waitstatus_to_exitcode(status)
    assert code == 0 and kills > 3, (code, kills)

random.seed(0)
for name in ("first", "second"):
    kill_until_done([*sys.argv[2:], "--out", os.path.join(sys.argv[1], name)])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_run_that_is_killed_again_and_again_writes_the_same_bytes(score, checkpoint, tmp_path):
    clips = write_clips(tmp_path / "clips", 24)
    assert score(clips, "--block-size", 2)[0] == 0
    table = clips / "list.csv"
    table.write_text("audio\n" + "".join(f"clip{index:02}.flac\n" for index in range(24)))
    words = ["score", table, "--model", checkpoint, "--device", "cpu", "--block-size", 2]
    done = warm_python.run("-c", KILLED, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    expected = contents(tmp_path / "out")
    assert contents(tmp_path / "first") == contents(tmp_path / "second") == expected


# Leaves a mark of each process, and kills the second one at its third block where that is asked for.
RANKS = """
import os, signal, sys
from pathlib import Path
from spooftrace.cli import main
from spooftrace.scoring import Processes
mark, deadly, *words = sys.argv[1:]
mine = Processes.current()
Path(f"{mark}-{mine.index}-of-{mine.count}").touch()
if deadly == "deadly" and mine.index == 1:
    fsync, left = os.fsync, [5]
    def killing(descriptor):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return fsync(descriptor)
    os.fsync = killing
sys.exit(main(words))
"""


@pytest.mark.parametrize(
    "launcher",
    [
        # --multi_gpu: without it accelerate starts one process where there is no GPU
        ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"],
        ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    ],
    ids=["accelerate", "torchrun"],
)
def test_two_processes_write_the_same_bytes_and_outlive_a_crash(score, checkpoint, original, tmp_path, launcher):
    pytest.importorskip("accelerate")
    words = [original, "--block-size", 1]
    assert score(*words)[0] == 0
    (tmp_path / "ranks.py").write_text(RANKS)
    deadly = "deadly" if launcher[0].startswith("torch") else "alive"
    program = [tmp_path / "ranks.py", tmp_path / "mark", deadly, "score", *words, "--out", tmp_path / "two"]
    command = ["-m", *launcher, *program, "--model", checkpoint, "--device", "cpu"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = warm_python.run(*command, env=environment)  # which starts both processes anew
    assert sorted(path.name for path in tmp_path.glob("mark-*")) == ["mark-0-of-2", "mark-1-of-2"], done.stderr
    if deadly == "deadly":
        assert done.returncode != 0 and not (tmp_path / "two" / "run.json").exists()
        assert "were done before" in score(*words, out="two")[1]
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("9 clips: 9 scored") == 1
    assert contents(tmp_path / "two") == contents(tmp_path / "out")
