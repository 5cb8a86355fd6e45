"""Whether what was published works for somebody else: tried in a new process without spooftrace and with an empty cache."""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


LIMIT = 3600  # seconds for one trial, the download of a large encoder among them
TOLERANCE = 1e-4  # of logits between the local folder and what was downloaded

# Where a process of huggingface_hub and transformers looks before it looks into HF_HOME.
_CACHES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_MODULES_CACHE", "HF_DATASETS_CACHE", "HF_ASSETS_CACHE")
_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_EVALUATE_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH")

# A name that is `None` among the modules cannot be imported.
_WITHOUT_US = "import json, sys\nsys.modules['spooftrace'] = None\n"

# sys.argv[1] is a folder or a repository, sys.argv[2] its commit. Prints the logits of a fixed sound, and what was missing.
_LOAD_MODEL = (
    _WITHOUT_US
    + """
import hashlib, os
import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, logging
from transformers.utils import cached_file
logging.set_verbosity_error()
name, revision, weights = sys.argv[1], sys.argv[2] or None, json.loads(sys.argv[3])
options = {"revision": revision, "trust_remote_code": True}
model, report = AutoModelForAudioClassification.from_pretrained(
    name, output_loading_info=True, use_safetensors=True, dtype=torch.float32, **options
)
extractor = AutoFeatureExtractor.from_pretrained(name, **options)
rate = extractor.sampling_rate
sound = 0.1 * np.random.default_rng(0).standard_normal(5 * rate) * np.sin(np.arange(5 * rate) / rate)
with torch.no_grad():
    logits = model.eval()(**extractor(sound.astype(np.float32), sampling_rate=rate, return_tensors="pt")).logits
flat = logits.values() if isinstance(logits, dict) else logits if isinstance(logits, (list, tuple)) else [logits]
hashes = {}
for file in weights:
    path = os.path.join(name, file) if os.path.isdir(name) else cached_file(name, file, revision=revision)
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    hashes[file] = digest.hexdigest()
keys = ("missing_keys", "unexpected_keys", "mismatched_keys")
print(json.dumps({
    "class": type(model).__module__.partition(".")[0] + "." + type(model).__name__,
    "logits": [value for part in flat for value in part.flatten().tolist()],
    "problems": {key: sorted(map(str, report[key])) for key in keys if report[key]},
    "sha256": hashes,
}))
"""
)

_LOAD_METRIC = (
    _WITHOUT_US
    + """
import evaluate
metric = evaluate.load(sys.argv[1], module_type="metric", revision=sys.argv[2])
found = metric.compute(predictions=[2.0, 1.0, 0.5, -1.0, -2.0, 0.7], references=[0, 0, 0, 1, 1, 1])
print(json.dumps({name: float(value) for name, value in found.items() if isinstance(value, (int, float))}))
"""
)

# The Space is started elsewhere; here, that its own copy of the package is whole and is the one that is imported.
_LOAD_SPACE = """
import importlib, json, os, sys
from huggingface_hub import snapshot_download
folder = os.path.realpath(snapshot_download(sys.argv[1], revision=sys.argv[2], repo_type="space", local_dir="space"))
os.chdir(folder)
sys.path.insert(0, folder)
sys.dont_write_bytecode = True
for name in json.loads(sys.argv[3]):
    module = importlib.import_module(name)
    if not os.path.realpath(module.__file__).startswith(os.path.join(folder, "spooftrace")):
        raise ImportError(f"{name} comes from {module.__file__}")
with open("app.py", encoding="utf-8") as stream:
    compile(stream.read(), "app.py", "exec")
print(json.dumps({"files": sum(len(files) for _, _, files in os.walk(folder))}))
"""


class CheckError(RuntimeError):
    """What was published does not work for somebody else; one line that says why."""


@dataclass(frozen=True)
class Loaded:
    """
    What somebody else gets.

    Args:
        model_class: of the model, with the package that it came from.
        logits: of a fixed sound, all tasks one after the other.
        sha256: of the weights that arrived, by file name.
    """

    model_class: str
    logits: list[float]
    sha256: dict[str, str]


class Stranger:
    """Somebody with an empty cache of the Hub and without spooftrace; what one trial downloads, the next one has."""

    def __init__(self, home: str, token: str | None):
        self.home, self.token = home, token

    def load_model(self, name: str | os.PathLike, revision: str | None, weights: list[str]) -> Loaded:
        """
        Loads a model as its card says, from a folder or the Hub, and lets it answer.

        Raises:
            CheckError: where it does not load, or weights are missing or left over.
        """
        found = self._run(_LOAD_MODEL, os.fspath(name), revision or "", json.dumps(weights))
        if found["problems"]:
            kinds = "; ".join(f"{key}: {', '.join(names[:5])}" for key, names in found["problems"].items())
            raise CheckError(f"{os.fspath(name)} loads with random weights elsewhere ({kinds})")
        if not all(map(math.isfinite, found["logits"])):
            raise CheckError(f"{os.fspath(name)} answers with numbers that are not finite")
        return Loaded(found["class"], found["logits"], found["sha256"])

    def load_metric(self, repo_id: str, revision: str) -> dict[str, float]:
        """Loads a metric Space by `evaluate`; what it gives for six trials."""
        return self._run(_LOAD_METRIC, repo_id, revision)

    def load_space(self, repo_id: str, revision: str, modules: list[str]) -> int:
        """Downloads a Space and imports the package that lies in it; the number of its files."""
        return self._run(_LOAD_SPACE, repo_id, revision, json.dumps(modules))["files"]

    def _run(self, program: str, *arguments: str) -> Any:
        kept = {name: value for name, value in os.environ.items() if name not in (*_CACHES, *_SWITCHES)}
        token = {"HF_TOKEN": self.token} if self.token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONSAFEPATH": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        with tempfile.TemporaryDirectory() as elsewhere:
            try:
                done = subprocess.run(
                    [sys.executable, "-c", program, *arguments],
                    env={**kept, **token, **quiet, "HF_HOME": self.home},
                    cwd=elsewhere,
                    check=False,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    encoding="utf-8",
                    errors="backslashreplace",
                    timeout=LIMIT,
                )
            except subprocess.TimeoutExpired as error:
                raise CheckError(f"it did not load within {LIMIT} s") from error
        if done.returncode:
            raise CheckError(reason(done.stderr))
        return json.loads(done.stdout.strip().rpartition("\n")[2])


@contextmanager
def stranger(token: str | None = None) -> Iterator[Stranger]:
    """
    Args:
        token: for a private repository or a gated encoder; without one, nobody in particular.
    """
    with tempfile.TemporaryDirectory(prefix="spooftrace-stranger-", ignore_cleanup_errors=True) as home:
        yield Stranger(home, token)


def reason(traceback: str) -> str:
    """The error that a process ended with, in one line; of a chain, a gated repository rather than what followed from it."""
    lines = [line.strip() for line in traceback.strip().splitlines() if line.strip()]
    gated = [line for line in lines if "GatedRepoError" in line or "gated repo" in line.lower()]
    starts = [
        number
        for number, line in enumerate(lines)
        if line.partition(":")[0].rpartition(".")[2].endswith(("Error", "Exception", "Enabled"))
    ]
    if gated:
        return f"a model that it needs is gated: {gated[-1]}"
    return " ".join(lines[starts[-1] :])[:600] if starts else (lines[-1] if lines else "it ended without a word")


def require_same(here: Loaded, there: Loaded) -> None:
    """
    Raises:
        CheckError: where the weights or the answers of two loads differ.
    """
    changed = sorted(name for name, digest in here.sha256.items() if there.sha256.get(name) != digest)
    if changed:
        raise CheckError(f"{', '.join(changed)} arrived with another SHA-256 than the local file has")
    largest = max((abs(a - b) for a, b in zip(here.logits, there.logits, strict=False)), default=0.0)
    if len(here.logits) != len(there.logits) or largest > TOLERANCE:
        raise CheckError(f"it answers otherwise than the local folder: logits differ by {largest:.2g}")


def gated_message(base_model: str) -> str:
    """Where to ask for a model that is gated."""
    from huggingface_hub import constants

    return (
        f"the encoder {base_model} is gated for this token: ask for access at {constants.ENDPOINT}/{base_model}, and log in "
        "with `hf auth login`"
    )
