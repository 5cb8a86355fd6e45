"""What `spooftrace doctor` looks at: is this installation whole, and if not, the command that mends it.

Written to work where things are broken. Versions come from the installed metadata and nothing heavy is imported here:
torch, transformers and the detector are tried in a process of their own, which may crash without harm.
"""

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from spooftrace._version import __version__


OK, WARN, FAIL = "ok", "warn", "fail"

MINIMUM_PYTHON = (3, 10)
CODECS = {
    "MP3": ("MP3", "MPEG_LAYER_III"),
    "OPUS": ("OGG", "OPUS"),
    "VORBIS": ("OGG", "VORBIS"),
    "FLAC": ("FLAC", "PCM_16"),
}

_TRAINING_PAIR = 'python -m pip install "torch>=2.11,<2.13" "torchaudio>=2.11,<2.12"'
_REMOVE_TORCHAUDIO = "python -m pip uninstall --yes torchaudio"
_REINSTALL = "python -m pip install --force-reinstall --no-deps spooftrace"
_SUBPROCESS_SECONDS = 180

_TRY_IMPORTS = """
import torch, transformers.audio_utils
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU")
"""
# transformers.audio_utils is where an installed but broken torchaudio breaks transformers
_TRY_DETECTOR = """
import numpy
from spooftrace.detector import Detector
noise = numpy.random.default_rng(0).normal(scale=0.1, size=80_000).astype("float32")
print("a verdict on noise:", Detector.from_pretrained(device="cpu")(noise, sampling_rate=16_000).verdict)
"""


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Args:
        name: what was looked at.
        status: "ok", "warn" (something is limited) or "fail" (something does not work).
        found: what was found.
        remedy: what to do, a command where there is one; empty where there is nothing to do.
    """

    name: str
    status: str
    found: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def check_installation() -> Iterator[Check]:
    """Yields the checks of this machine one by one as they are done; the last two take seconds."""
    yield check_python()
    yield from check_packages()
    torchaudio = check_torchaudio()
    yield torchaudio
    yield from check_codecs()
    imports = check_imports(torchaudio)
    yield imports
    yield check_detector(imports)


def installed_version(package: str) -> str | None:
    """The version by the installed metadata, without importing the package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 13, 0) for "2.13.0+cpu", () where there are none."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def check_python() -> Check:
    found = f"{platform.python_version()} ({platform.system()} {platform.machine()})"
    if sys.version_info < MINIMUM_PYTHON:
        return Check("python", FAIL, found, "make a virtual environment with Python 3.10 or later")
    return Check("python", OK, found)


def check_packages() -> Iterator[Check]:
    """spooftrace's own requirements, as its metadata states them: the core ones one by one, the extras by group."""
    try:
        requirements = metadata.requires("spooftrace") or []
    except metadata.PackageNotFoundError:
        yield Check("spooftrace", FAIL, f"{__version__}, but not installed", "python -m pip install spooftrace")
        return
    yield Check("spooftrace", OK, __version__)
    extras: dict[str, list[str]] = {}
    for line in requirements:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        extra = re.search(r"extra\s*==\s*[\"']([^\"']+)", marker)
        if extra is None:
            yield check_requirement(requirement)
        elif not requirement.startswith("spooftrace"):
            extras.setdefault(extra[1], []).append(requirement)
    for extra, wanted in extras.items():
        yield check_extra(extra, wanted)


def check_requirement(requirement: str) -> Check:
    """One core requirement, such as "torch>=2.10": there, and in the range asked for."""
    package, bounds = _parse(requirement)
    version = installed_version(package)
    command = f'python -m pip install "{requirement}"'
    if version is None:
        return Check(package, FAIL, "not installed", command)
    if not _within(version, bounds):
        return Check(package, FAIL, f"{version}, but spooftrace needs {requirement}", command)
    return Check(package, OK, version)


def check_extra(extra: str, requirements: list[str]) -> Check:
    """The packages of one extra. Missing ones are no fault, since extras are optional; wrong versions are a warning."""
    found, missing, wrong = [], [], []
    for requirement in requirements:
        package, bounds = _parse(requirement)
        version = installed_version(package)
        (missing if version is None else found).append(f"{package} {version or ''}".strip())
        # whether torch and torchaudio fit is `check_torchaudio`'s to say, with one command for it
        if version is not None and package not in ("torch", "torchaudio") and not _within(version, bounds):
            wrong.append(requirement)
    text = ", ".join(found) or "none of its packages"
    if missing:
        text += f" (not installed: {', '.join(missing)})"
    command = f'python -m pip install "spooftrace[{extra}]"'
    if wrong and not missing:
        return Check(f"extra {extra}", WARN, f"{text}; needs {', '.join(wrong)}", command)
    return Check(f"extra {extra}", OK, text, command if missing else "")


def _parse(requirement: str) -> tuple[str, list[tuple[str, tuple[int, ...]]]]:
    match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?(.*)", requirement)
    bounds = re.findall(r"(>=|<=|==|!=|~=|<|>)\s*([0-9][^\s,)]*)", match[2])
    return match[1], [(operator, release(version)) for operator, version in bounds]


def _within(version: str, bounds: list[tuple[str, tuple[int, ...]]]) -> bool:
    """Whether a version satisfies `>=` and `<` bounds, the only ones that spooftrace's metadata uses."""
    have = release(version)
    return all(
        have >= bound if operator == ">=" else have < bound for operator, bound in bounds if operator in (">=", "<")
    )


def check_torchaudio() -> Check:
    """torchaudio is compiled against one torch. transformers imports it wherever it is installed, so that a mismatch
    breaks everything; it is only needed to train, so that without training it is best removed."""
    torch, torchaudio = installed_version("torch"), installed_version("torchaudio")
    if torchaudio is None:
        return Check("torchaudio", OK, "not installed; only training needs it")
    if torch is None:
        return Check("torchaudio", FAIL, f"{torchaudio} without torch", _REMOVE_TORCHAUDIO)
    if torchaudio_fits(torch, torchaudio):
        return Check("torchaudio", OK, f"{torchaudio}, fits torch {torch}")
    trains = installed_version("accelerate") is not None
    found = f"{torchaudio} does not load beside torch {torch}, and breaks transformers with it"
    return Check("torchaudio", FAIL, found, _TRAINING_PAIR if trains else _REMOVE_TORCHAUDIO)


def torchaudio_fits(torch: str, torchaudio: str) -> bool:
    """Whether two versions load together: equal in their first two numbers, and torchaudio 2.11, the last release,
    beside torch 2.12 as well."""
    ours, theirs = release(torch)[:2], release(torchaudio)[:2]
    return ours == theirs or (theirs == (2, 11) and ours == (2, 12))


def check_codecs() -> Iterator[Check]:
    """libsndfile loads and knows the codecs that people send."""
    command = "python -m pip install --upgrade --force-reinstall soundfile"
    try:
        import soundfile

        formats = soundfile.available_formats()
        missing = [
            name
            for name, (container, subtype) in CODECS.items()
            if container not in formats or subtype not in soundfile.available_subtypes(container)
        ]
    except (ImportError, OSError, AttributeError) as error:
        yield Check("libsndfile", FAIL, f"does not load ({_one_line(str(error))})", command)
        return
    found = soundfile.__libsndfile_version__
    if missing:
        found += f" without {', '.join(missing)}: such files can't be read"
        yield Check("libsndfile", WARN, found, f"{command} (its wheels bring libsndfile 1.2.2 or later)")
        return
    yield Check("libsndfile", OK, f"{found} with {', '.join(CODECS)}")


def check_imports(torchaudio: Check) -> Check:
    """torch and transformers import, and on what they would run."""
    passed, text = run_python(_TRY_IMPORTS)
    if passed:
        return Check("torch and transformers", OK, f"import; device: {text}")
    reinstall = "python -m pip install --force-reinstall torch transformers"
    remedy = torchaudio.remedy if torchaudio.status == FAIL else reinstall
    return Check("torch and transformers", FAIL, f"do not import: {text}", remedy)


def check_detector(imports: Check) -> Check:
    """The detector that ships with the package is there, loads, and gives a verdict."""
    name = "default detector"
    folder = _checkpoint_folder()
    if folder is None:
        return Check(name, FAIL, "no checkpoint in the package", _REINSTALL)
    if imports.status == FAIL:
        return Check(name, FAIL, f"{folder.name} is there, but can't be tried", imports.remedy)
    began = time.monotonic()
    passed, text = run_python(_TRY_DETECTOR)
    if not passed:
        return Check(name, FAIL, f"{folder.name} does not run: {text}", _REINSTALL)
    return Check(name, OK, f"{folder.name}: {text} after {time.monotonic() - began:.1f} s")


def _checkpoint_folder() -> Path | None:
    try:
        spec = importlib.util.find_spec("spooftrace.modeling")
    except ImportError:
        return None
    for place in spec.submodule_search_locations or () if spec else ():
        for config in sorted(Path(place, "checkpoints").glob("*/config.json")):
            if config.with_name("model.safetensors").is_file():
                return config.parent
    return None


def run_python(code: str) -> tuple[bool, str]:
    """Runs code in a fresh interpreter with this one's import path and no access to the Hub.

    Returns:
        whether it ended well, and the last line of its output, or of its errors.
    """
    preamble = f"import sys; sys.path[:] = {json.dumps(sys.path)}\n"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    try:
        result = subprocess.run(
            [sys.executable, "-c", preamble + code],
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
            timeout=_SUBPROCESS_SECONDS,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {_SUBPROCESS_SECONDS} s"
    if result.returncode < 0:
        return False, f"killed by signal {-result.returncode}"
    output = result.stdout if result.returncode == 0 else result.stderr
    return result.returncode == 0, _one_line(output.strip().rpartition("\n")[2]) or f"exit {result.returncode}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
