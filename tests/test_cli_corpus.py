"""`spooftrace corpus`: lists, checks, builds, and pushes to a Hub that misbehaves."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import warm_python
from corpus_trees import full_asvspoof2019, write_asvspoof2019, write_clip
from small_hub import READ, SmallHub

from spooftrace import __version__
from spooftrace.cli import main
from spooftrace.data_scripts import corpora


REPO = "alice/small"
COMMIT = r"^POST /api/datasets/.*/commit/"

LOAD = """
import json, os, sys
from datasets import Audio, load_dataset
data = load_dataset(sys.argv[1], split="test", streaming=sys.argv[2] == "True")
rows = list(data.cast_column("audio", Audio(decode=False)))
print(json.dumps([[row["utterance_id"], row["label"], row["audio"]["bytes"].hex()] for row in rows]), flush=True)
os._exit(0)  # threads that read ahead may outlive the interpreter, and abort it
"""


@pytest.fixture
def table(tmp_path) -> Path:
    """A table of six clips."""
    folder = tmp_path / "data"
    lines = ["audio,label,split"]
    for number in range(6):
        write_clip(folder / f"c{number}.wav", seed=number)
        lines.append(f"c{number}.wav,{('bonafide', 'spoof')[number % 2]},{'train' if number < 4 else 'test'}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder / "metadata.csv"


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in ("corpus", *arguments)])
    return code, *capsys.readouterr()


def push(hub: SmallHub, table: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """A push in a process of its own, since the client reads its endpoint when it is imported."""
    call = [
        "corpus",
        "push",
        "own",
        str(table),
        REPO,
        "--license",
        "cc0-1.0",
        "--out",
        str(table.parent.parent / "out"),
    ]
    # Without torch, which `datasets` would import only to see whether it runs in a worker.
    environment = hub.env(**{"USE_TORCH": "0", **variables})
    return warm_python.run("-m", "spooftrace", *call, *arguments, env=environment)


def commits(hub: SmallHub) -> list[str]:
    """Titles of all commits of the repository, sorted."""
    return sorted(json.loads(path.read_text())["title"] for path in hub.store.root.glob(f"*/{REPO}/commits/*"))


def test_the_list_names_every_corpus_with_its_terms(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0 and all(name in out for name in corpora())
    code, out, _ = run(capsys, "list", "--json")
    facts = {corpus["name"]: corpus for corpus in json.loads(out)}
    assert facts.keys() == corpora().keys()
    assert facts["fakeavceleb"]["redistribution"] == "refused"
    assert {"config": "la", "split": "train", "bonafide": 2580, "spoof": 22800} in facts["asvspoof2019-la"]["totals"]


def test_info_tells_where_to_get_a_corpus_and_how_it_lies(capsys):
    code, out, _ = run(capsys, "info", "asvspoof2019-la")
    assert code == 0 and all(words in out for words in ("LA.zip", "odc-by", "22,800", "_cm_protocols"))


def test_a_corpus_with_the_published_numbers_is_whole(tmp_path, capsys):
    write_asvspoof2019(tmp_path, full_asvspoof2019(), audio=False)
    code, out, _ = run(capsys, "verify", "asvspoof2019-la", tmp_path, "--check-audio", "none")
    assert code == 0 and "whole" in out and "differs" not in out and "63,882" in out


def test_other_numbers_are_shown_beside_the_published_ones(tmp_path, capsys):
    write_asvspoof2019(tmp_path)
    code, out, _ = run(capsys, "verify", "asvspoof2019-la", tmp_path, "--json")
    found = json.loads(out)
    assert code == 1 and not found["is_whole"] and found["missing"] == []
    assert found["counts"][0] == {
        "split": "train",
        "found": {"bonafide": 2, "spoof": 2},
        "published": {"bonafide": 2580, "spoof": 22800},
    }
    assert found["attacks"]["train"] == {"A01": 1, "A06": 1}


def test_missing_and_unreadable_clips_are_named(table, capsys):
    assert run(capsys, "verify", "own", table, "--check-audio", "decode")[0] == 0
    (table.parent / "c1.wav").unlink()
    (table.parent / "c2.wav").write_bytes(b"RIFF, but nothing of the kind")
    soundfile.write(table.parent / "c3.wav", np.full(800, np.nan, np.float32), 16_000, subtype="FLOAT")
    assert run(capsys, "verify", "own", table, "--check-audio", "none")[0] == 0
    code, out, _ = run(capsys, "verify", "own", table)
    assert code == 1 and "c1" in out and "c2" not in out
    code, out, _ = run(capsys, "verify", "own", table, "--check-audio", "decode", "--json")
    found = json.loads(out)
    assert code == 1 and [flaw["utterance_id"] for flaw in found["missing"]] == ["c1"]
    assert [flaw["utterance_id"] for flaw in found["unreadable"]] == ["c2", "c3"] and found["decoded"] == 3


def test_errors_of_a_corpus_keep_their_lines(tmp_path, table, capsys):
    code, _, err = run(capsys, "verify", "own", tmp_path / "nowhere")
    assert code == 1 and "nowhere" in err and err.count("\n") > 3 and "Traceback" not in err
    table.write_text("audio,label\nc0.wav,real\nc1.wav,fake\n")
    code, _, err = run(capsys, "build", "own", table, "--out", tmp_path / "out")
    assert code == 1 and "line 2" in err and "line 3" in err


def test_options_of_a_corpus_are_text_or_json(table, tmp_path, capsys):
    table.write_text("audio,label\nc0.wav,real\nc1.wav,fake\n")
    labels = 'labels={"real": "bonafide", "fake": "spoof"}'
    code, out, _ = run(capsys, "build", "own", table, "--out", tmp_path / "out", "--option", labels, "--json")
    assert code == 0 and json.loads(out)["splits"]["default"]["train"]["labels"] == {"bonafide": 1, "spoof": 1}
    code, _, err = run(capsys, "verify", "own", table, "--option", "colour=red")
    assert code == 1 and "colour" in err


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("juggle",),
        ("build", "own", "x"),
        ("verify", "own", "x", "--option", "y"),
        ("extract-audio", "own", "x"),
        ("push", "own", "x", "alice/x", "--attempts", "0"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as leaving:
        run(capsys, *arguments)
    assert leaving.value.code == 2 and "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["", "push"])
def test_help_teaches_without_importing_anything_slow(action):
    script = (
        "import sys\n"
        "from spooftrace.cli import main\n"
        "try:\n"
        f"    main(['corpus', *{action.split()!r}, '--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "assert not {'numpy', 'datasets', 'pyarrow', 'huggingface_hub', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert ("spooftrace corpus push" if not action else "one commit") in done.stdout.replace("\n", " ")


def test_what_may_not_be_passed_on_is_refused_before_anything_is_built(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "push", "fakeavceleb", tmp_path, "alice/videos", "--metadata-only")
    assert code == 1 and "may not be passed on" in err and err.count("\n") == 1
    code, _, err = run(capsys, "push", "asvspoof2021-la", tmp_path, "alice/la")
    assert code == 1 and "--metadata-only" in err
    assert list(tmp_path.iterdir()) == []


def test_a_pushed_corpus_is_one_commit_that_anybody_loads(hub, table):
    earlier = {
        "README.md": b"---\ntags: [spooftrace]\n---\n",
        "default/test-00001-of-00002.parquet": b"of a larger push",
    }
    hub.seed(REPO, earlier, kind="dataset")
    done = push(hub, table)
    assert done.returncode == 0, done.stderr
    assert "pushed and read back" in done.stdout
    assert commits(hub) == [f"Your own data, built with spooftrace {__version__}", "init", "seed"]
    out = table.parent.parent / "out"
    here = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    there = hub.files(REPO, kind="dataset")
    assert {name: content for name, content in there.items() if name != ".gitattributes"} == here
    expected = [[f"c{n}", n % 2, (table.parent / f"c{n}.wav").read_bytes().hex()] for n in (4, 5)]
    for streaming in ("True", "False"):
        environment = hub.env(token=None, USE_TORCH="0")
        loaded = warm_python.run("-c", LOAD, REPO, streaming, env=environment, check=True)
        assert json.loads(loaded.stdout) == expected


def test_a_push_that_fails_keeps_the_build_and_can_be_repeated(hub, table):
    hub.fail(COMMIT, 503, times=2, **{"Retry-After": "0"})
    done = push(hub, table, "--attempts", "2")
    assert done.returncode == 1 and done.stdout == ""
    assert "busy (503" in done.stderr and "The build is kept in" in done.stderr and done.stderr.count("\n") == 1
    assert commits(hub) == ["init"] and "README.md" not in hub.files(REPO, kind="dataset")
    done = push(hub, table)
    assert done.returncode == 0 and "using the build" in done.stderr and len(commits(hub)) == 2
    done = push(hub, table)
    assert done.returncode == 0 and "held all of it already" in done.stdout and len(commits(hub)) == 2


def test_a_token_that_may_only_read_is_one_line_and_the_build_stays(hub, table):
    done = push(hub, table, HF_TOKEN=READ)
    assert done.returncode == 1 and "may only read" in done.stderr and done.stderr.count("\n") == 1
    assert (table.parent.parent / "out" / "README.md").exists()


def test_a_dry_run_builds_and_asks_the_hub_nothing(hub, table):
    done = push(hub, table, "--dry-run")
    assert done.returncode == 0 and "default/train-00000-of-00001.parquet" in done.stdout
    assert hub.requests == [] and (table.parent.parent / "out" / "README.md").exists()


def test_a_push_without_a_way_to_the_hub_builds_nothing_and_a_dry_run_needs_none(table, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    call = ("push", "own", table, REPO, "--license", "cc0-1.0", "--out", tmp_path / "out", "--json")
    code, out, err = run(capsys, *call)
    assert code == 1 and out == "" and "HF_HUB_OFFLINE is set" in err and not (tmp_path / "out").exists()
    code, out, _ = run(capsys, *call, "--dry-run")
    plan = json.loads(out)
    assert code == 0 and plan["push"] is None and "default/train-00000-of-00001.parquet" in plan["files"]
