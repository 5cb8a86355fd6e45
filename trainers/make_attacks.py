"""Makes spoof copies of the genuine training clips of a corpus: `python -m spooftrace.trainers.make_attacks`.

Reads `metadata.csv` (columns file, label, split) in the corpus folder, takes only the rows that are bona fide, in the
train split and under `--prefix`, and writes 16 kHz 16-bit FLAC copies and `manifest.csv` (file, source_file, attack,
family, params). Everything is drawn from `--seed`, so that a given number of `--neural-steps` repeats exactly on one
machine. A second call goes on where the first one stopped: files and models that exist are kept.
"""

import argparse
import csv
import json
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from spooftrace.audio import SAMPLING_RATE, load_audio
from spooftrace.trainers.attacks import ATTACKS, BAND_LIMIT_HZ, apply_attack, finish, restore_band
from spooftrace.trainers.neural_attacks import NEURAL_ATTACKS, NeuralConfig, NeuralCopier, copy_clip, train_copier


FIELDS = ("file", "source_file", "attack", "family", "params")
SAVE_EVERY = 100
# What an acoustic model or a voice converter hands to its vocoder differs from an analysed spectrogram in these ways.
BEFORE_VOCODER = ("over-smoothing", "mel-vq", "frame-rate", "envelope-warp", "source-filter", "phase-vocoder")


@dataclass(frozen=True)
class Job:
    """One copy to make: of which clip, by which attack; `stages` and `before` are settings of the neural ones."""

    source_file: str
    attack: str
    family: str
    stages: int = 0
    before: bool = False

    @property
    def file(self) -> str:
        name = self.source_file.replace("/", "-").rsplit(".", 1)[0]
        return f"{self.attack}/{name}.flac"


def genuine_files(data: Path, prefix: str = "") -> list[str]:
    """The `file` of every bona fide row of the train split under `prefix`, sorted. Raises ValueError for none."""
    with open(data / "metadata.csv", newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"] == "bonafide" and row["split"] == "train"]
    files = sorted(row["file"] for row in rows if row["file"].startswith(prefix))
    if not files:
        raise ValueError(f"{data / 'metadata.csv'} has no bona fide train row under {prefix!r}; check --prefix")
    return files


def signal_jobs(files: Sequence[str], names: Sequence[str], per_clip: int, seed: int) -> list[Job]:
    """`per_clip` different signal-processing attacks per clip, drawn from `names`."""
    jobs = []
    for file in files:
        drawn = _rng(seed, file).permutation(list(names))[:per_clip]
        jobs += [Job(file, str(name), ATTACKS[str(name)].family) for name in drawn]
    return jobs


def neural_jobs(files: Sequence[str], config: NeuralConfig) -> list[Job]:
    """Every clip through one system: at each of its bit rates, or, for a vocoder, plainly and after another attack."""
    jobs = []
    for file in files:
        if config.quantizer != "none":
            rates = [(f"{config.name}-{stages}" if stages else config.name, stages) for stages in config.bitrates]
            jobs += [Job(file, name, "codec", stages) for name, stages in rates]
        else:
            jobs += [Job(file, config.name, "vocoder"), Job(file, f"{config.name}-tts", "tts", before=True)]
    return jobs


class Cache:
    """The output folder: what it holds already, and new copies added to it. Manifest rows are kept by `file`."""

    def __init__(self, data: Path, out: Path, seed: int, band_limit: float):
        self.data, self.out, self.seed, self.band_limit = data, out, seed, band_limit
        self.rows: dict[str, dict[str, str]] = {}
        out.mkdir(parents=True, exist_ok=True)
        if (out / "manifest.csv").exists():
            with open(out / "manifest.csv", newline="", encoding="utf-8") as stream:
                self.rows = {row["file"]: row for row in csv.DictReader(stream) if (out / row["file"]).exists()}
        for row in self.rows.values():
            if (made_with := json.loads(row["params"])["seed"]) != seed:
                raise ValueError(f"{out} was made with --seed {made_with}, not {seed}; give another --out")

    def run(self, jobs: Sequence[Job], title: str, model: NeuralCopier | None = None) -> None:
        """Makes the copies that are missing, saving the manifest every `SAVE_EVERY` and at the end."""
        missing = [job for job in jobs if job.file not in self.rows]
        try:
            for count, job in enumerate(tqdm(missing, desc=title, unit="clip", mininterval=1.0), start=1):
                self._make(job, model)
                if count % SAVE_EVERY == 0:
                    self.save()
        finally:
            self.save()

    def restored(self, wave: np.ndarray) -> np.ndarray:
        """The clip as it was before its band was limited, as far as an attack cares."""
        return restore_band(wave, self.band_limit) if self.band_limit else wave

    def _make(self, job: Job, model: NeuralCopier | None) -> None:
        rng = _rng(self.seed, f"{job.attack}:{job.source_file}")
        source = load_audio(self.data / job.source_file)
        copy, params = self.restored(source), {"seed": self.seed}
        if job.before:
            params["before"] = str(rng.choice(BEFORE_VOCODER))
            copy, settings = apply_attack(params["before"], copy, rng)
            params.update(settings)
        if model is None:
            copy, settings = apply_attack(job.attack, copy, rng)
            params.update(settings)
        else:
            copy = copy_clip(model, copy, job.stages)
            params["stages"] = job.stages
        self._write(job.file, finish(copy, source, rng, self.band_limit))
        values = (job.file, job.source_file, job.attack, job.family, json.dumps(params))
        self.rows[job.file] = dict(zip(FIELDS, values, strict=True))

    def _write(self, file: str, wave: np.ndarray) -> None:
        path = self.out / file
        path.parent.mkdir(exist_ok=True)
        soundfile.write(f"{path}.part", wave, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
        os.replace(f"{path}.part", path)

    def save(self) -> None:
        """Writes manifest.csv anew, in one step."""
        with open(self.out / "manifest.csv.part", "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, FIELDS)
            writer.writeheader()
            writer.writerows(self.rows[file] for file in sorted(self.rows))
        os.replace(self.out / "manifest.csv.part", self.out / "manifest.csv")


def trained_copier(
    cache: Cache, files: Sequence[str], config: NeuralConfig, steps: int | None, minutes: float | None
) -> NeuralCopier:
    """The system's saved model, or a newly trained and saved one. Raises ValueError for one of other settings."""
    path = cache.out / "models" / f"{config.name}.safetensors"
    asked = {"config": repr(config), "seed": str(cache.seed), "steps": str(steps), "minutes": str(minutes)}
    if path.exists():
        with safe_open(path, framework="pt") as stored:
            found = stored.metadata() or {}
        if found != asked:
            raise ValueError(f"{path} was trained with {found}, not {asked}; remove it or give another --out")
        model = NeuralCopier(config)
        model.load_state_dict(load_file(path))
        return model.eval()
    clips = [cache.restored(load_audio(cache.data / file)) for file in files]
    with tqdm(total=100, desc=f"train {config.name}", bar_format="{l_bar}{bar}| {elapsed}{postfix}") as bar:

        def report(share: float, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update(round(100 * share, 2) - bar.n)

        model = train_copier(config, clips, steps=steps, minutes=minutes, seed=cache.seed, report=report)
        bar.update(100 - bar.n)
    path.parent.mkdir(exist_ok=True)
    save_file(model.state_dict(), f"{path}.part", metadata=asked)
    os.replace(f"{path}.part", path)
    return model


def _rng(seed: int, key: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(key.encode())])


def _chosen(names: Sequence[str] | None, known: Sequence[str]) -> Iterator[str]:
    return (name for name in known if names is None or name in names)


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m spooftrace.trainers.make_attacks", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="corpus folder with metadata.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the copies, manifest.csv and models/")
    parser.add_argument("--prefix", default="", help="take only rows whose file begins so, such as audio/")
    parser.add_argument("--per-clip", type=int, default=4, help="signal-processing attacks per clip (default 4)")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--neural-steps", type=int, help="train every neural system for so many steps (repeatable)")
    budget.add_argument("--neural-minutes", type=float, help="train every neural system for so long")
    parser.add_argument("--attacks", nargs="+", choices=[*ATTACKS, *NEURAL_ATTACKS], help="only these (default: all)")
    limit_help = "low-pass of the corpus in Hz, put on the copies too (default %(default)s; 0: none)"
    parser.add_argument("--band-limit", type=float, default=BAND_LIMIT_HZ, help=limit_help)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; neural attacks are made only when --neural-steps or --neural-minutes is given."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        files = genuine_files(args.data, args.prefix)
        cache = Cache(args.data, args.out, args.seed, args.band_limit)
        names = list(_chosen(args.attacks, list(ATTACKS)))
        cache.run(signal_jobs(files, names, args.per_clip, args.seed), "signal processing")
        if args.neural_steps is not None or args.neural_minutes is not None:
            for name in _chosen(args.attacks, list(NEURAL_ATTACKS)):
                config = NEURAL_ATTACKS[name]
                model = trained_copier(cache, files, config, args.neural_steps, args.neural_minutes)
                cache.run(neural_jobs(files, config), name, model)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(cache.rows)} copies of {len(files)} genuine clips in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
