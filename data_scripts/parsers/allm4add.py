"""
ALLM4ADD's lists for audio language models: JSON Lines with a question about a clip, and the answer.

```
{"messages": [{"role": "user", "audio": "/data/LA_T_1.wav", "content": "Is this audio real or fake?"},
              {"role": "assistant", "content": "Fake."}]}
```

(One line each.) `write_allm4add` makes such a list of any corpus.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from spooftrace.data_scripts.corpus import Corpus
from spooftrace.data_scripts.protocol import (
    AudioFolder,
    CorpusNotFoundError,
    Problem,
    Problems,
    ProtocolError,
    escape_id,
    is_clip,
    is_inside,
    read_lines,
)
from spooftrace.data_scripts.records import parse_json
from spooftrace.data_scripts.rows import Row, codec_attributes


PROMPT = "Is this audio real or fake?"

_NAME = "allm4add"
_LABELS = {"Real.": "bonafide", "Fake.": "spoof"}
_ANSWERS = {label: answer for answer, label in _LABELS.items()}
_FILES = {
    "train": ("asv_fake_audio.jsonl", "train.jsonl"),
    "validation": ("validation.jsonl",),
    "test": ("asv_test_fake_audio.jsonl", "test.jsonl"),
}

LAYOUT = """Expected one of
  <folder>/asv_fake_audio.jsonl, asv_test_fake_audio.jsonl (also in <folder>/data)
  <folder>/train.jsonl, validation.jsonl, test.jsonl
or a single .jsonl file, which is read as train. The authors' samples are at
https://github.com/ucas-hao/qwen_audio_for_add; the audio is that of ASVspoof 2019 LA, as WAV. Where it is not at the
absolute paths in the list, give its folder as audio_dir=..."""


class _Turn(NamedTuple):
    line: int
    audio: str
    prompt: str
    label: str | None


def find(root: Path, config: str) -> dict[str, Path]:
    if root.is_file():
        return {"train": root}
    found = {split: path for split, names in _FILES.items() if (path := _first(root, names)) is not None}
    if not found:
        raise CorpusNotFoundError(f"no list of ALLM4ADD in {root}.\n{LAYOUT}")
    return found


def _first(root: Path, names: Iterable[str]) -> Path | None:
    paths = (folder / name for name in names for folder in (root, root / "data"))
    return next(filter(Path.is_file, paths), None)


def parse(
    root: Path, config: str, files: Mapping[str, Path], *, audio_dir: str | os.PathLike | None
) -> dict[str, list[Row]]:
    folder = AudioFolder([_folder(audio_dir)], (".wav", ".flac", ".mp3")) if audio_dir else None
    return {split: read_allm4add(path, folder) for split, path in files.items()}


def _folder(audio_dir: str | os.PathLike) -> Path:
    folder = Path(audio_dir).expanduser().absolute()
    if not folder.is_dir():
        raise CorpusNotFoundError(f"audio_dir {str(audio_dir)!r} is not a folder: give the one with the clips.")
    return folder


def read_allm4add(path: Path, folder: AudioFolder | None = None) -> list[Row]:
    """
    The trials of one list. Their ids are the clips' names without an ending, the whole path where names repeat.

    Args:
        path: the list.
        folder: where to find the clips by name; by default at their paths in the list, relative ones from the list on.

    Raises:
        ProtocolError: with all problems of the list.
    """
    problems = Problems(path)
    turns = [turn for line, text in read_lines(path) if (turn := _turn(problems, line, text)) is not None]
    if not turns:
        problems.add(0, "no trial in it: is it the right file, and whole?")
    paths: dict[str, set[str]] = {}
    for turn in turns:
        paths.setdefault(_stem(turn.audio), set()).add(turn.audio)
    beside = Path(path).expanduser().absolute().parent
    rows = [_row(problems, turn, len(paths[_stem(turn.audio)]) == 1, beside, folder) for turn in turns]
    problems.raise_any()
    return rows


def _turn(problems: Problems, line: int, text: str) -> _Turn | None:
    try:
        user, assistant = parse_json(text)["messages"]
        turn = _Turn(line, _text(user, "audio"), _text(user, "content"), _text(assistant, "content"))
        roles = [user["role"], assistant["role"]]
    except (ValueError, TypeError, KeyError) as error:
        problems.add(line, f"not a question with audio and its answer ({type(error).__name__}: {error})")
        return None
    if roles != ["user", "assistant"]:
        problems.add(line, f"roles {roles}, expected user and assistant")
        return None
    return turn._replace(label=problems.label(line, turn.label or "", _LABELS))


def _text(message: Mapping[str, Any], name: str) -> str:
    value = message[name]
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{name} is {value!r}, no text")
    return value


def _stem(path: str) -> str:
    return PureWindowsPath(path).stem  # takes both kinds of slashes


def _row(problems: Problems, turn: _Turn, is_unique: bool, beside: Path, folder: AudioFolder | None) -> Row:
    name = _stem(turn.audio) if is_unique else PureWindowsPath(turn.audio).with_suffix("").as_posix().lstrip("/")
    utterance_id = escape_id(name)
    problems.check_id(turn.line, utterance_id)
    named = beside / turn.audio if is_inside(turn.audio) else Path(turn.audio)
    there = str(named) if named.is_absolute() and is_clip(named) else None
    return Row(
        utterance_id=utterance_id,
        label=turn.label,
        corpus=_NAME,
        audio=folder.find(_stem(turn.audio)) if folder else there,
        extra={"prompt": turn.prompt},
        line=turn.line,
        **codec_attributes(turn.label),
    )


def write_allm4add(rows: Iterable[Row], path: str | os.PathLike, *, prompt: str = PROMPT) -> int:
    """
    Writes rows as a list for audio language models, whole or not at all.

    Args:
        rows: each with a label and the path of its clip.
        path: of the list; replaced if it is there.
        prompt: the question.

    Returns:
        The number of lines.

    Raises:
        ProtocolError: for rows without a label or clip.
    """
    rows = list(rows)
    _check_complete(rows, path)
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8", newline="\n") as stream:
            for row in rows:
                question = {"role": "user", "audio": os.path.abspath(row.audio), "content": prompt}
                answer = {"role": "assistant", "content": _ANSWERS[row.label]}
                stream.write(json.dumps({"messages": [question, answer]}, ensure_ascii=False) + "\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return len(rows)


def _check_complete(rows: Sequence[Row], path: str | os.PathLike) -> None:
    problems = [
        Problem(number, f"{row.utterance_id!r} has no {lacking}: a question needs the clip, an answer the label")
        for number, row in enumerate(rows, start=1)
        for lacking, value in (("clip", row.audio), ("label", row.label))
        if value is None
    ]
    if problems:
        raise ProtocolError(path, problems)


CORPORA = (
    Corpus(
        name=_NAME,
        title="ALLM4ADD lists",
        homepage="https://github.com/ucas-hao/qwen_audio_for_add",
        license="unknown",
        license_note="The authors' repository states no licence. The audio is that of the corpus the list was made of.",
        citation=(
            "Hao Gu et al. ALLM4ADD: Unlocking the Capabilities of Audio Large Language Models for Audio Deepfake "
            "Detection. ACM Multimedia 2025. arXiv:2505.11079."
        ),
        description="Questions and answers about clips of ASVspoof 2019 LA, in the form that ALLM4ADD trains on.",
        layout=LAYOUT,
        configs={"default": "a list, or one for each split"},
        find=find,
        parse=parse,
        extra={"prompt": "string"},
        options={"audio_dir": None},
        redistribution="metadata",
        source_speech=("VCTK",),
    ),
)
