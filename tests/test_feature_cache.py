"""Frozen features on disk: found again by content alone, never more than the space allows, never a damaged one."""

import multiprocessing
import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import nn

from spooftrace.trainers import feature_cache
from spooftrace.trainers.feature_cache import FeatureCache, content_key, encoder_digest


KEYS = [f"{number:064x}" for number in range(40)]


def entry(value: float, size: int = 100) -> dict[str, torch.Tensor]:
    return {"features": torch.full((size,), float(value)), "mask": torch.ones(2, dtype=torch.bool)}


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.features"))


def used(folder: Path) -> int:
    """Of entries, finished or not; another process may delete some meanwhile."""
    with FileLock(folder / "lock"):
        return sum(path.stat().st_size for path in folder.glob("*/*"))


def test_what_is_kept_comes_back_with_names_types_and_shapes(tmp_path):
    cache = FeatureCache(tmp_path / "cache", 10_000)
    kept = {"a": torch.randn(3, 4), "b": torch.randn(2).bfloat16(), "c": torch.tensor(7)}
    assert cache.get(KEYS[1]) is None
    cache.put(KEYS[1], kept)
    found = FeatureCache(tmp_path / "cache", 10_000).get(KEYS[1])
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in kept.items())
    assert found.keys() == kept.keys()


def test_only_what_is_missing_is_computed_and_all_comes_in_order(tmp_path):
    cache, asked = FeatureCache(tmp_path, 100_000), []

    def compute(places: list[int]) -> dict[str, torch.Tensor]:
        asked.append(places)
        return {"x": torch.tensor([[float(place), 1.0] for place in places], requires_grad=True)}

    assert cache.rows([KEYS[0], KEYS[2]], compute)["x"].tolist() == [[0.0, 1.0], [1.0, 1.0]]
    rows = cache.rows([KEYS[5], KEYS[2], KEYS[6]], compute)["x"]
    assert rows.tolist() == [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]] and not rows.requires_grad
    assert asked == [[0, 1], [0, 2]]
    assert (cache.found, cache.computed) == (1, 4)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_file_is_computed_again(tmp_path, damage):
    cache = FeatureCache(tmp_path, 100_000)
    cache.put(KEYS[3], entry(3.0))
    (path,) = files(tmp_path)
    content = path.read_bytes()
    flipped = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
    path.write_bytes({"cut": content[:-9], "flipped": flipped, "empty": b"", "foreign": b"x" * 900}[damage])
    assert cache.get(KEYS[3]) is None
    rows = cache.rows([KEYS[3]], partial(_alone, entry(3.0)))
    assert torch.equal(rows["features"][0], entry(3.0)["features"])
    assert path.read_bytes() == content


def test_the_oldest_make_room_and_reading_makes_young(tmp_path):
    cache = FeatureCache(tmp_path, 2_700)
    size = None
    for number in range(4):
        cache.put(KEYS[number], entry(number))
        size = size or used(tmp_path)
        os.utime(cache._path(KEYS[number]), (number, number))  # the clock of a file system may be coarse
    assert 500 < size < 700 and len(files(tmp_path)) == 4
    assert cache.get(KEYS[0]) is not None
    cache.put(KEYS[9], entry(9))
    left = [number for number in range(10) if cache.get(KEYS[number]) is not None]
    assert 0 in left and 9 in left and 1 not in left
    assert used(tmp_path) <= 2_700


def test_the_space_is_never_exceeded(tmp_path):
    cache = FeatureCache(tmp_path, 5_000)
    for number in range(40):
        cache.put(KEYS[number], entry(number, size=20 + 7 * number))
        assert used(tmp_path) <= 5_000
    assert cache.get(KEYS[39]) is not None and files(tmp_path)


def test_what_is_larger_than_all_the_space_is_not_kept(tmp_path):
    cache = FeatureCache(tmp_path, 1_000)
    cache.put(KEYS[0], entry(0.0))
    cache.put(KEYS[1], entry(1.0, size=10_000))
    assert cache.get(KEYS[1]) is None and cache.get(KEYS[0]) is not None


def test_a_file_that_a_killed_process_left_unfinished_makes_room_first(tmp_path):
    cache = FeatureCache(tmp_path, 3_000)
    cache.put(KEYS[0], entry(0.0))
    unfinished = files(tmp_path)[0].with_name("left.part")
    unfinished.write_bytes(b"1" * 700)
    (tmp_path / "size").unlink()
    for number in range(1, 5):
        cache.put(KEYS[number], entry(number))
    assert not unfinished.exists() and used(tmp_path) <= 3_000
    assert all(cache.get(KEYS[number]) is not None for number in range(1, 5))


def test_a_folder_that_is_emptied_meanwhile_is_filled_anew(tmp_path):
    cache = FeatureCache(tmp_path, 100_000)
    cache.put(KEYS[0], entry(0.0))
    for path in [*files(tmp_path), tmp_path / "size"]:
        path.unlink()
    assert cache.get(KEYS[0]) is None
    cache.put(KEYS[0], entry(0.0))
    assert cache.get(KEYS[0]) is not None


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="a folder that cannot be written to")
def test_a_disk_that_cannot_be_written_ends_nothing(tmp_path):
    cache = FeatureCache(tmp_path, 100_000)
    (tmp_path / KEYS[0][:2]).mkdir(mode=0o500)
    cache.put(KEYS[0], entry(0.0))
    assert cache.get(KEYS[0]) is None


def test_a_full_disk_ends_nothing(tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path, 100_000)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_cache.os, "replace", full)
    cache.put(KEYS[0], entry(0.0))
    assert cache.get(KEYS[0]) is None and not list(tmp_path.glob("*/*.part"))


def test_what_can_be_neither_read_nor_locked_is_as_good_as_missing(tmp_path):
    cache = FeatureCache(tmp_path, 100_000)
    for path in (cache._path(KEYS[0]), tmp_path / "lock"):
        path.mkdir(parents=True)  # no file, whoever asks
    rows = cache.rows([KEYS[0]], partial(_alone, entry(2.0)))
    assert torch.equal(rows["features"][0], entry(2.0)["features"])


def _work(folder: Path, seed: int) -> None:
    """Reads and writes the same keys as the other processes, in an order of its own."""
    torch.set_num_threads(1)
    cache = FeatureCache(folder, 6_000)
    order = torch.randperm(len(KEYS), generator=torch.Generator().manual_seed(seed)).tolist()
    for number in order * 3:
        expected = entry(float(number))
        rows = cache.rows([KEYS[number]], partial(_alone, expected))
        assert torch.equal(rows["features"][0], expected["features"])
        assert used(folder) <= 6_000


def _alone(expected: dict[str, torch.Tensor], places: list[int]) -> dict[str, torch.Tensor]:
    return {name: value[None] for name, value in expected.items()}


def test_processes_share_a_folder(tmp_path):
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    workers = [context.Process(target=_work, args=(tmp_path, seed)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert files(tmp_path) and used(tmp_path) <= 6_000


def test_keys_follow_from_samples_weights_and_settings_alone():
    torch.manual_seed(0)
    encoder, clip = nn.Linear(3, 2), torch.tensor([0.1, -0.2, 0.3])
    digest = encoder_digest(encoder, frames=256)
    key = content_key(digest, clip)
    assert len(key) == 64 and key == content_key(encoder_digest(encoder, frames=256), clip.clone())
    assert key != content_key(digest, clip + 1e-7) != content_key(digest, clip.double())
    assert digest != encoder_digest(encoder, frames=255)
    before = encoder.weight.data.clone()
    encoder.weight.data[1, 2] += 1e-6
    assert digest != encoder_digest(encoder, frames=256)
    encoder.weight.data = before
    assert digest == encoder_digest(encoder, frames=256)


def test_no_space_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1 byte, got 0"):
        FeatureCache(tmp_path, 0)
