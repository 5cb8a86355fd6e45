"""The promises of batch scoring: the same bytes after any crash and over any number of processes, nothing lost or mixed."""

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import warm_python
from tiny_runs import RATE, contents, listed, tiny_folder, write_clip, write_clips

from spooftrace.detector import Detector
from spooftrace.score_journal import Journal, find_records, read_record
from spooftrace.scoring import Processes, ScoreSummary, ScoringError, score_clips


COUNT, BLOCK = 11, 3
FILES = ("scores.txt", "scores.jsonl", "run.json")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def detector(checkpoint) -> Detector:
    return Detector.from_pretrained(checkpoint, device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), COUNT)


@pytest.fixture
def clips(original, tmp_path) -> Path:
    """A copy of the clips that a test may spoil."""
    return Path(shutil.copytree(original, tmp_path / "clips"))


def score(detector: Detector, items, out: Path, **options) -> ScoreSummary:
    return score_clips(detector, items, out, **{"block_size": BLOCK, "threads": 1, **options})


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def expected(detector, original, tmp_path_factory) -> dict[str, bytes]:
    """The files of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("expected") / "out"
    score(detector, listed(original), out)
    return contents(out)


class Stop(Exception):
    """What ends a run in the middle."""


def interrupt(detector: Detector, items, out: Path, after: int, **options) -> None:
    """Ends a run once so many clips are through."""
    done = []

    def progress(clips: int) -> None:
        done.append(clips)
        if sum(done) >= after:
            raise Stop

    with pytest.raises(Stop):
        score(detector, items, out, progress=progress, **options)
    assert (out / ".journal").is_dir() and not (out / "run.json").exists()


# --- the files -------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_detector_in_the_order_of_the_list(detector, original, tmp_path):
    items = listed(original)[::-1]
    summary = score(detector, items, tmp_path / "out")
    assert summary == ScoreSummary(
        COUNT, COUNT, sum(line["verdict"] == "abstain" for line in lines(tmp_path / "out")), 0
    )
    rows = [line.split() for line in (tmp_path / "out" / "scores.txt").read_text().splitlines()]
    assert [name for name, _ in rows] == [name for name, _ in items]
    for (_, text), (_, path), line in zip(rows, items, lines(tmp_path / "out"), strict=True):
        alone = detector(path)
        assert float(text) == line["score"] == pytest.approx(alone.score, abs=1e-5)
        assert line["sha256"] == alone.sha256 and line["model"] == alone.model
        assert (line["verdict"], line["reason"], line["duration"]) == (alone.verdict, alone.reason, alone.duration)
        assert [window["end"] for window in line["windows"]] == [window.end for window in alone.windows]


def test_a_run_says_what_was_run_and_nothing_about_when(detector, expected):
    run = json.loads(expected["run.json"])
    assert run["model"]["revision"] == detector.model_info["revision"] and run["inputs"]["clips"] == COUNT
    assert run["options"]["block_size"] == BLOCK and run["results"]["scored"] == COUNT
    assert set(run) == {"model", "inputs", "options", "versions", "results", "files"}


def test_the_same_list_gives_the_same_bytes(detector, original, expected, tmp_path):
    score(detector, listed(original), tmp_path / "out")
    assert contents(tmp_path / "out") == expected and sorted(expected) == sorted(FILES)


def in_a_thread(function: Callable) -> object:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_threads_do_not_matter_and_torch_keeps_its_own(detector, original, expected, tmp_path):
    before = torch.get_num_threads()
    try:
        for own, threads in ((1, 3), (3, 1), (2, None)):
            torch.set_num_threads(own)
            out = tmp_path / f"{own}-{threads}"
            score(detector, listed(original), out, threads=threads)
            assert contents(out) == expected
            for seen in (torch.get_num_threads(), in_a_thread(torch.get_num_threads)):
                assert seen == own
    finally:
        torch.set_num_threads(before)


def test_audio_comes_as_paths_bytes_arrays_dicts_or_functions(detector, original, tmp_path):
    paths = [path for _, path in listed(original)[:4]]
    waveform, rate = soundfile.read(paths[3], dtype="float32")
    sources = [
        Path(paths[0]),
        Path(paths[1]).read_bytes(),
        {"path": None, "bytes": Path(paths[2]).read_bytes()},
        lambda: {"array": waveform, "sampling_rate": rate},
    ]
    for name, given in (("out", sources), ("same", paths)):
        score(detector, [(f"clip{index}", source) for index, source in enumerate(given)], tmp_path / name)
    assert (tmp_path / "out" / "scores.txt").read_bytes() == (tmp_path / "same" / "scores.txt").read_bytes()
    again = [(f"clip{index}", source) for index, source in enumerate(sources)]
    assert score(detector, again, tmp_path / "out").kept == 4


def test_bad_clips_are_recorded_in_their_place_and_cost_the_others_nothing(detector, clips, tmp_path):
    good = score(detector, listed(clips), tmp_path / "good")
    names = [name for name, _ in listed(clips)]
    (clips / "clip01.flac").write_bytes(b"")
    whole = (clips / "clip04.flac").read_bytes()
    (clips / "clip04.flac").write_bytes(whole[: len(whole) // 2])
    soundfile.write(clips / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    items = [*listed(clips), ("missing", str(clips / "missing.flac"))]
    summary = score(detector, items, tmp_path / "out")
    found = {line["utterance_id"]: line for line in lines(tmp_path / "out")}
    assert list(found) == [*names, "nan", "missing"]
    errors = {name: line["error"] for name, line in found.items() if "error" in line}
    assert errors == {
        "clip01": "EmptyAudioError",
        "clip04": "UnreadableAudioError",
        "missing": "AudioNotFoundError",
    }
    assert found["nan"]["score"] is None and found["nan"]["reason"] == "not finite"
    assert (summary.clips, summary.scored, summary.failed) == (COUNT + 2, COUNT - 2, 3)
    assert good.complete and not summary.complete
    scored = {line.split()[0] for line in (tmp_path / "out" / "scores.txt").read_text().splitlines()}
    assert scored == set(names) - set(errors)
    reference = {line["utterance_id"]: line["score"] for line in lines(tmp_path / "good")}
    assert all(found[name]["score"] == pytest.approx(reference[name], abs=1e-5) for name in scored)


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        (["a", "b", "a"], "'a' is there twice"),
        (["a b"], "white space"),
        (["a\u2028b"], "white space"),
        ([""], "empty"),
        ([7], "7 is no text"),
        (["caf\udce9"], "not Unicode"),
        ([], "empty"),
    ],
)
def test_ids_that_cannot_stand_in_a_score_file_are_refused_before_any_clip_is_read(detector, tmp_path, ids, problem):
    def never() -> str:
        raise AssertionError("read")

    with pytest.raises(ScoringError, match=problem):
        score(detector, [(name, never) for name in ids], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 3, 4, 9, COUNT])
def test_an_interrupted_run_goes_on_to_the_same_bytes(detector, original, expected, tmp_path, after):
    interrupt(detector, listed(original), tmp_path / "out", after)
    seen = []
    summary = score(detector, listed(original), tmp_path / "out", progress=seen.append)
    assert contents(tmp_path / "out") == expected
    assert sum(seen) == COUNT and summary.kept == after // BLOCK * BLOCK - (BLOCK if after % BLOCK == 0 else 0)


def test_a_finished_run_is_left_alone(detector, original, tmp_path, monkeypatch):
    score(detector, listed(original), tmp_path / "out")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(detector.model, "forward", None)
    summary = score(detector, listed(original), tmp_path / "out")
    assert summary.kept == COUNT and summary.complete
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == stamps


CRASHES = """
import os, shutil, signal, sys
from pathlib import Path
import torch
from spooftrace.detector import Detector
from spooftrace.scoring import score_clips

torch.set_num_threads(1)  # no thread of torch's may exist when the process forks
model, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
detector = Detector.from_pretrained(model, device="cpu", batch_size=4)
items = [(path.stem, str(path)) for path in sorted(folder.iterdir())][:5]

def score():
    score_clips(detector, items, out, block_size=3, threads=1)

def killed_at(call):
    # Forks a run that dies just before its `call`-th change to the disk; of a write, half is done by then.
    pid = os.fork()
    if pid:
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    left = [call]
    def deadly(name):
        function = getattr(os, name)
        def wrapped(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                if name == "write":
                    function(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        setattr(os, name, wrapped)
    for name in ("write", "fsync", "replace", "remove", "unlink", "rmdir", "mkdir", "ftruncate"):
        deadly(name)
    try:
        score()
    finally:
        os._exit(0)

def contents():
    return {path.name: path.read_bytes() for path in out.iterdir()}

def crash_everywhere(prepare):
    call, alive = 0, False
    while not alive:
        prepare()
        call += 1
        alive = not killed_at(call)
        killed_at(call)  # the run that goes on is killed as well, wherever it is by then
        score()
        assert contents() == expected, call
    return call

def remove():
    shutil.rmtree(out, ignore_errors=True)

def finish_before_a_change():
    remove()
    shutil.copytree(finished, out)

score()
expected, finished = contents(), shutil.copytree(out, out.parent / "finished")
print(crash_everywhere(remove))
shutil.copy(items[4][1], items[1][1])
remove()
score()
expected = contents()
print(crash_everywhere(finish_before_a_change))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_no_crash_at_any_write_changes_a_byte(checkpoint, clips, tmp_path):
    done = warm_python.run("-c", CRASHES, checkpoint, clips, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert min(map(int, done.stdout.split())) > 20


@pytest.mark.parametrize("damage", ["cut", "flipped", "garbage", "blank"])
def test_a_torn_record_is_cut_off(detector, original, expected, tmp_path, damage):
    interrupt(detector, listed(original), tmp_path / "out", 8)
    journal = tmp_path / "out" / ".journal" / "0.blocks"
    data = journal.read_bytes()
    assert data.count(b"\n") == 2
    flipped = bytearray(data)
    flipped[-100] ^= 1
    spoilt = {"cut": data[:-1], "flipped": bytes(flipped), "garbage": data + b"\x00" * 50, "blank": data + b"\n"}
    journal.write_bytes(spoilt[damage])
    summary = score(detector, listed(original), tmp_path / "out")
    assert contents(tmp_path / "out") == expected
    assert summary.kept == (BLOCK if damage in ("cut", "flipped") else 2 * BLOCK)


def test_a_full_disk_is_told_and_costs_nothing(detector, original, expected, tmp_path, monkeypatch):
    write, calls = os.write, []

    def full(descriptor: int, data) -> int:
        calls.append(len(data))
        if len(calls) == 3:  # a part of the record still fits
            return write(descriptor, bytes(data)[:40])
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"No space left.*run the same again.*0\.blocks") as error:
        score(detector, listed(original), tmp_path / "out")
    assert error.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert score(detector, listed(original), tmp_path / "out").kept == 2 * BLOCK
    assert contents(tmp_path / "out") == expected


# --- the audio and the model are the key -----------------------------------------------------------------------------


def test_changed_audio_is_scored_again_on_resuming(detector, clips, tmp_path):
    interrupt(detector, listed(clips), tmp_path / "out", 8)
    write_clip(clips / "clip01.flac", 99)
    assert score(detector, listed(clips), tmp_path / "out").kept == BLOCK  # of the two blocks that were done
    score(detector, listed(clips), tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_changed_audio_is_scored_again_after_the_end(detector, clips, expected, tmp_path):
    score(detector, listed(clips), tmp_path / "out")
    write_clip(clips / "clip04.flac", 99)
    (clips / "clip05.flac").write_bytes(b"")
    assert score(detector, listed(clips), tmp_path / "out").kept == COUNT - BLOCK
    score(detector, listed(clips), tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh") != expected
    for seed, name in ((4, "clip04"), (5, "clip05")):
        write_clip(clips / f"{name}.flac", seed)
    score(detector, listed(clips), tmp_path / "out")
    assert contents(tmp_path / "out") == expected


def other_model(detector: Detector, checkpoint: Path, tmp_path: Path) -> Detector:
    return Detector.from_pretrained(tiny_folder(tmp_path / "other", seed=5), device="cpu", batch_size=4)


def changed_weight(detector: Detector, checkpoint: Path, tmp_path: Path) -> Detector:
    """Under the same name and revision."""
    other = Detector.from_pretrained(checkpoint, device="cpu", batch_size=4)
    with torch.no_grad():
        other.model.classifier.bias[0] += 1e-3
    return other


def changed_threshold(detector: Detector, checkpoint: Path, tmp_path: Path) -> Detector:
    return Detector.from_pretrained(checkpoint, device="cpu", batch_size=4, threshold=0.25)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_model, r"model\.name '.*' \(now '.*other'\), model\.revision 'sha256:.*' \(now 'sha256:"),
        (changed_weight, r"model\.weights_sha256"),
        (changed_threshold, r"options\.threshold 0\.5 \(now 0\.25\)"),
    ],
)
def test_two_runs_never_mix(detector, checkpoint, original, expected, tmp_path, finished, change, named):
    out = tmp_path / "out"
    if finished:
        score(detector, listed(original), out)
    else:
        interrupt(detector, listed(original), out, 8)
    other = change(detector, checkpoint, tmp_path)
    with pytest.raises(ScoringError, match=rf"{named}.*another --out, or pass --overwrite"):
        score(other, listed(original), out)
    score(detector, listed(original), out)
    assert contents(out) == expected
    score(other, listed(original), out, overwrite=True)
    score(other, listed(original), tmp_path / "fresh")
    assert contents(out) == contents(tmp_path / "fresh") != expected


def test_another_list_is_refused(detector, original, tmp_path):
    items = listed(original)
    interrupt(detector, items, tmp_path / "out", 8)
    for other in (items[:-1], items[::-1], [("renamed", items[0][1]), *items[1:]]):
        with pytest.raises(ScoringError, match=r"inputs\.sha256"):
            score(detector, other, tmp_path / "out")


def test_a_moved_corpus_goes_on(detector, original, expected, tmp_path):
    interrupt(detector, listed(original), tmp_path / "out", 8)
    moved = Path(shutil.copytree(original, tmp_path / "moved"))
    assert score(detector, listed(moved), tmp_path / "out").kept == 2 * BLOCK
    assert contents(tmp_path / "out") == expected


def test_a_journal_without_its_description_is_not_trusted(detector, checkpoint, original, expected, tmp_path):
    interrupt(changed_weight(detector, checkpoint, tmp_path), listed(original), tmp_path / "out", 8)
    (tmp_path / "out" / ".journal" / "run.json").unlink()
    assert score(detector, listed(original), tmp_path / "out").kept == 0
    assert contents(tmp_path / "out") == expected


@pytest.mark.parametrize("name", ["scores.txt", "scores.jsonl"])
def test_results_that_somebody_changed_are_not_passed_off_as_the_runs(detector, original, tmp_path, name):
    score(detector, listed(original), tmp_path / "out")
    with open(tmp_path / "out" / name, "a") as file:
        file.write("more\n")
    with pytest.raises(ScoringError, match=f"{name} is not the file"):
        score(detector, listed(original), tmp_path / "out")
    (tmp_path / "out" / "run.json").unlink()
    with pytest.raises(ScoringError, match=r"without run\.json"):
        score(detector, listed(original), tmp_path / "out")


# --- streams ---------------------------------------------------------------------------------------------------------


def test_a_stream_is_read_as_it_goes_and_resumed_by_its_name(detector, original, tmp_path):
    asked = []

    def stream():
        for name, path in listed(original):
            asked.append(name)
            yield name, path

    interrupt(detector, stream(), tmp_path / "out", 2, stream="data@1")
    assert len(asked) < COUNT
    with pytest.raises(ScoringError, match=r"inputs\.stream 'data@1' \(now 'data@2'\)"):
        score(detector, stream(), tmp_path / "out", stream="data@2")
    score(detector, stream(), tmp_path / "out", stream="data@1")
    score(detector, listed(original), tmp_path / "list")
    for name in ("scores.txt", "scores.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "list" / name).read_bytes()
    assert score(detector, stream(), tmp_path / "out", stream="data@1").kept == COUNT


def test_an_id_that_a_stream_repeats_ends_the_run(detector, original, tmp_path):
    items = iter([*listed(original), listed(original)[0]])
    with pytest.raises(ScoringError, match="'clip00' is there twice"):
        score(detector, items, tmp_path / "out", stream="data@1")
    assert not (tmp_path / "out" / "scores.txt").exists()


# --- several processes -----------------------------------------------------------------------------------------------


def together(count: int, work: Callable[[Processes], object]) -> list:
    """Runs `work` as processes would, each in a thread of its own."""
    barrier, results = threading.Barrier(count, timeout=60), [None] * count

    def run(index: int) -> None:
        try:
            results[index] = work(Processes(index, count, barrier.wait))
        except Exception as error:  # noqa: BLE001  handed to the test
            results[index] = error
            barrier.abort()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("count", [2, 3, 5])
def test_processes_share_the_blocks_and_write_the_same_bytes(detector, original, expected, tmp_path, count):
    done = []
    results = together(
        count,
        lambda mine: score(
            detector, listed(original), tmp_path / "out", processes=mine, progress=lambda _: done.append(mine.index)
        ),
    )
    assert all(isinstance(result, ScoreSummary) and result.complete for result in results), results
    assert contents(tmp_path / "out") == expected
    assert len(done) == COUNT and set(done) == set(range(min(count, 4)))


def test_a_run_goes_on_with_another_number_of_processes(detector, original, expected, tmp_path):
    together(2, lambda mine: interrupt(detector, listed(original), tmp_path / "out", 4, processes=mine))
    journals = sorted(path.name for path in (tmp_path / "out" / ".journal").glob("*.blocks"))
    assert journals == ["0.blocks", "1.blocks"]
    assert score(detector, listed(original), tmp_path / "out").kept > 0
    assert contents(tmp_path / "out") == expected


def test_a_block_that_another_process_scored_is_replaced_when_its_audio_changes(detector, clips, tmp_path):
    together(2, lambda mine: interrupt(detector, listed(clips), tmp_path / "out", 4, processes=mine))
    assert 1 in find_records(tmp_path / "out" / ".journal")
    write_clip(clips / "clip04.flac", 99)
    score(detector, listed(clips), tmp_path / "out")
    score(detector, listed(clips), tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_processes_with_different_lists_are_refused(detector, original, tmp_path):
    items = listed(original)
    results = together(2, lambda mine: score(detector, items[mine.index :], tmp_path / "out", processes=mine))
    assert any(isinstance(result, ScoringError) and "inputs.clips" in str(result) for result in results)
    assert not (tmp_path / "out" / "run.json").exists()


# --- the journal -----------------------------------------------------------------------------------------------------


def test_the_latest_round_of_a_block_counts_whichever_file_holds_it(tmp_path):
    for process, round in ((1, 1), (0, 0), (2, 0)):
        journal = Journal(tmp_path, process)
        journal.append(7, [{"round": round}], round)
        journal.close()
    assert read_record(find_records(tmp_path)[7]) == [{"round": 1}]


def test_a_second_run_into_the_same_folder_is_refused(detector, original, tmp_path):
    pytest.importorskip("fcntl")
    interrupt(detector, listed(original), tmp_path / "out", 4)
    journal = Journal(tmp_path / "out" / ".journal")
    try:
        with pytest.raises(OSError, match="is being written by another run"):
            score(detector, listed(original), tmp_path / "out")
    finally:
        journal.close()
    assert score(detector, listed(original), tmp_path / "out").complete


def test_a_folder_that_cannot_be_made_is_named(detector, original, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        score(detector, listed(original), tmp_path / "file" / "out")


@pytest.mark.parametrize("options", [{"block_size": 0}, {"threads": 0}])
def test_sizes_start_at_one(detector, original, tmp_path, options):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        score(detector, listed(original), tmp_path / "out", **options)
