"""
Your own data: a CSV, a JSON Lines file, or a folder.

A table needs two columns, `audio` and `label`:

```
audio,label,speaker_id,attack_id
clips/0001.flac,bonafide,anna,
clips/0002.flac,spoof,anna,xtts
```

- `audio` (also `file`, `file_name` or `path`): relative to the table's folder. Absolute paths and paths that leave that
  folder are refused unless `allow_outside=True`, since a table may come from anywhere.
- `label`: exactly `bonafide` or `spoof`; nothing is guessed. `labels={"real": "bonafide", "fake": "spoof"}` maps others.
- `utterance_id`: by default the path without its ending, white space percent-encoded, `./a.wav` as `a.wav`; with the
  ending where two clips differ in that alone. A clip may come again under another id, but not with another label.
- `split`: `train`, `validation` (also `dev`, `val`, `valid`), `test` (also `eval`), in lower case, or a
  name of your own. Without the column everything is `train`, as for any dataset on the Hub that names no split.
- `subset` (by default what `split` says), `speaker_id`, `attack_id`, `codec`, `vq`, `aux`, `dec` and `corpus` as in
  `Row`. All others are kept as text in `Row.extra`. An empty cell, and `-`, is null.

A folder is read by the one `metadata` or `manifest` table in it, if there is one. Otherwise it holds the folders
`bonafide` and `spoof`, directly or in a folder for each split; other folders with audio beside these are refused, since
nothing tells what they hold. Where no labels are asked for, it is every clip below it.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spooftrace.audio import AudioNotFoundError, find_audio
from spooftrace.data_scripts.corpus import Corpus
from spooftrace.data_scripts.protocol import (
    CorpusNotFoundError,
    Problem,
    Problems,
    ProtocolError,
    escape_id,
    is_inside,
    null,
)
from spooftrace.data_scripts.records import TABLE_SUFFIXES, read_table
from spooftrace.data_scripts.rows import AUX_LABELS, DEC_LABELS, LABELS, VQ_LABELS, Row, codec_attributes


AUDIO_COLUMNS = ("audio", "file", "file_name", "path")
DEFAULT_SPLIT = "train"
TABLE_STEMS = ("metadata", "manifest")

_FOLDERS = {name: name for name in ("train", "validation", "test")}
_SPLITS = {"dev": "validation", "val": "validation", "valid": "validation", "eval": "test"}
_SPLIT = re.compile(r"\w+(\.\w+)*", re.ASCII)
_ATTRIBUTES = {"vq": VQ_LABELS, "aux": AUX_LABELS, "dec": DEC_LABELS}
_PLAIN = ("utterance_id", "label", "split", "subset", "speaker_id", "attack_id", "codec", "corpus", *_ATTRIBUTES)

LAYOUT = """Expected: a .csv, .tsv or .jsonl file with the columns audio and label, such as
  audio,label
  clips/0001.flac,bonafide
  clips/0002.flac,spoof
or a folder:
  <folder>/bonafide/*.flac
  <folder>/spoof/*.flac
or such a pair of folders in each of <folder>/train, <folder>/validation, <folder>/test."""


class Options(NamedTuple):
    """How strictly to read: see `read_manifest`."""

    require_labels: bool = True
    require_audio: bool = True
    allow_outside: bool = False
    labels: Mapping[str, str] | None = None
    corpus: str = "own"


class Trial(NamedTuple):
    """A row and the split that it belongs to."""

    split: str
    row: Row


def read_manifest(
    path: str | os.PathLike,
    *,
    split: str | None = None,
    require_labels: bool = True,
    require_audio: bool = True,
    allow_outside: bool = False,
    labels: Mapping[str, str] | None = None,
    corpus: str = "own",
) -> list[Row]:
    """
    The trials of a table or folder, in its order; a folder's sorted by path.

    Args:
        path: a `.csv`, `.tsv`, `.jsonl` or `.ndjson` file, or a folder, see above.
        split: only the trials of this split; all by default.
        require_labels: `False` for a list to score: the column may be absent, and single labels null.
        require_audio: `False` for a key to evaluate against: clips need not be there (their `audio` is null then), and
            instead of `audio` there may be `utterance_id` alone.
        allow_outside: accept absolute paths and paths that leave the table's folder.
        labels: spellings of the labels besides `bonafide` and `spoof` -> one of these.
        corpus: the value of `Row.corpus` where a table has no such column.

    Raises:
        CorpusNotFoundError: without the file or folder, and for a folder in which nothing is found.
        ProtocolError: with all problems of a table, by line.
        ValueError: for a split that is not there, or `labels` that map to something else.
    """
    options = Options(require_labels, require_audio, allow_outside, labels, corpus)
    trials = _read(Path(path).expanduser().absolute(), options)
    found = dict.fromkeys(trial.split for trial in trials)
    if split is not None and split not in found:
        raise ValueError(f"{path} has no split {split!r}; it has {', '.join(found)}.")
    return [trial.row for trial in trials if split in (None, trial.split)]


def find_manifest(path: Path) -> Path | None:
    """
    The table at `path` itself or in the folder that it names; `None` for a folder without one.

    Raises:
        CorpusNotFoundError: where there is nothing.
        ProtocolError: for a folder with several tables of the names that are looked for.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise CorpusNotFoundError(f"no table or folder at {path}.\n{LAYOUT}")
    names = (stem + suffix for stem in TABLE_STEMS for suffix in TABLE_SUFFIXES)
    found = [path / name for name in names if (path / name).is_file()]
    if len(found) > 1:
        several = ", ".join(table.name for table in found)
        raise ProtocolError(path, [Problem(0, f"holds {several}: name one of them instead of the folder")])
    return found[0] if found else None


def _read(path: Path, options: Options) -> list[Trial]:
    wrong = {name for name in (options.labels or {}).values() if name not in LABELS}
    if wrong:
        raise ValueError(f"labels maps to {sorted(wrong)}; it maps to {' or '.join(map(repr, LABELS))}.")
    table = find_manifest(path)
    return _Table(table, options).trials() if table else _read_folder(path, options)


class _Table:
    """One reading of a table."""

    def __init__(self, path: Path, options: Options):
        self.folder, self.options, self.problems = path.parent, options, Problems(path)
        self.table = read_table(self.problems)
        named = [name for name in AUDIO_COLUMNS if name in self.table.columns]
        self.audio = named[0] if named else None
        self.known = _classes(options)
        self.unknown: dict[str, list[int]] = {}
        self.labels: dict[str, tuple[int, str]] = {}
        self.bare = _bare_ids([_normal(record.get(self.audio or "", "")) for _, record in self.table.records])

    def trials(self) -> list[Trial]:
        self._check_columns()
        trials = [self._trial(line, record) for line, record in self.table.records]
        for text, lines in self.unknown.items():
            self.problems.add(lines[0], self._unknown_label(text, len(lines)))
        self.problems.raise_any()
        if not trials:
            raise ProtocolError(self.problems.path, [Problem(0, "no trial in it: is it the right file, and whole?")])
        return trials

    def _check_columns(self) -> None:
        columns = self.table.columns
        if not columns and not self.table.records:
            return
        there = f"it has {', '.join(map(repr, columns)) or 'none'}"
        if self.audio is None and (self.options.require_audio or "utterance_id" not in columns):
            self.problems.add(0, f"no column 'audio' with the path of each clip: name it so; {there}")
        if self.options.require_labels and "label" not in columns:
            self.problems.add(0, f"no column 'label' that says bonafide or spoof: name it so; {there}")

    def _trial(self, line: int, record: dict[str, str]) -> Trial:
        cells = {name: null(record.get(name, "").strip()) for name in _PLAIN}
        label = self._label(line, cells["label"])
        split = self._split(line, cells["split"])
        audio, name = self._locate(line, record, label)
        utterance_id = cells["utterance_id"] or name
        if utterance_id is not None:
            self.problems.check_id(line, utterance_id)
        elif self.audio is None and "utterance_id" in record:
            self.problems.add(line, "no utterance_id: give each trial one of its own")
        row = Row(
            utterance_id=utterance_id or "",
            label=label,
            corpus=cells["corpus"] or self.options.corpus,
            audio=audio,
            attack_id=self._attack(line, label, cells["attack_id"]),
            speaker_id=cells["speaker_id"],
            subset=cells["subset"] or cells["split"],
            codec=cells["codec"],
            **self._attributes(line, label, cells),
            extra={name: null(text.strip()) for name, text in record.items() if name not in (self.audio, *_PLAIN)},
            line=line,
        )
        return Trial(split, row)

    def _label(self, line: int, text: str | None) -> str | None:
        if text is None:
            if self.options.require_labels and "label" in self.table.columns:
                self.problems.add(line, "no label: write 'bonafide' or 'spoof'")
            return None
        if text not in self.known:
            self.unknown.setdefault(text, []).append(line)
        return self.known.get(text)

    def _unknown_label(self, text: str, count: int) -> str:
        more = f" (in {count} lines)" if count > 1 else ""
        accepted = " or ".join(map(repr, self.known))
        option = f"--option 'labels={{{json.dumps(text)}: ...}}'"
        return (
            f"unknown label {text!r}{more}: write {accepted}, or pass labels={{{text!r}: ...}} to say what it means "
            f"(`spooftrace corpus` has {option})"
        )

    def _split(self, line: int, text: str | None) -> str:
        if text is None and "split" not in self.table.columns:
            return DEFAULT_SPLIT
        if text is None or not _is_split(text):
            found = f"split {text!r}" if text else "no split"
            self.problems.add(line, f"{found}: write train, validation or test, or a name of letters and digits")
        elif text != text.lower() and text.lower() in _FOLDERS | _SPLITS:
            self.problems.add(line, f"split {text!r}: write {text.lower()!r}, or a name that is not as near to it")
        return _SPLITS.get(text or "", text or DEFAULT_SPLIT)

    def _locate(self, line: int, record: dict[str, str], label: str | None) -> tuple[str | None, str | None]:
        """Absolute path of a clip that is there, and the utterance id that its path gives."""
        text = record.get(self.audio or "", "")
        if not text.strip():
            if self.audio is not None and (self.options.require_audio or not record.get("utterance_id", "").strip()):
                self.problems.add(line, f"no {self.audio}: give the path of the clip")
            return None, None
        if "\0" in text or not (self.options.allow_outside or is_inside(text)):
            self.problems.add(line, f"{self.audio} {text!r} is absolute or leaves the table's folder: {_OUTSIDE}")
            return None, None
        path = os.path.normpath(os.path.join(self.folder, text))
        there = os.path.isfile(path)
        if not there and self.options.require_audio:
            self.problems.add(line, f"no file {text!r} in {self.folder}: complete the folder, or remove the line")
        first, other = self.labels.setdefault(path, (line, label)) if label else (line, label)
        if other != label:
            self.problems.add(
                line, f"{self.audio} {text!r} is {label} here but {other} in line {first}: mend one of the two"
            )
        return path if there else None, _id_of(_normal(text), self.bare)

    def _attack(self, line: int, label: str | None, attack: str | None) -> str | None:
        if label == "bonafide" and attack not in (None, "bonafide"):
            self.problems.add(line, f"attack_id {attack!r} of genuine speech: leave it empty, or mend the label")
        return None if label == "bonafide" else attack

    def _attributes(self, line: int, label: str | None, cells: Mapping[str, str | None]) -> dict[str, str | None]:
        for name, known in _ATTRIBUTES.items():
            allowed = known if label is None else known[:1] if label == "bonafide" else known[1:]
            if cells[name] is not None and cells[name] not in allowed:
                kind = f" of {label} speech" if label else ""
                self.problems.add(
                    line, f"{name} {cells[name]!r}{kind}: write {' or '.join(allowed)}, or leave it empty"
                )
        default = codec_attributes(label)
        return {name: cells[name] or default[name] for name in _ATTRIBUTES}


_OUTSIDE = "give it relative to that folder, or pass allow_outside=True (--allow-outside) for a table that you trust"


def _is_split(text: str) -> bool:
    return bool(_SPLIT.fullmatch(text)) and text != "all"


def _normal(path: str) -> str:
    """A path without `.` and doubled slashes, so that a clip has one id however it is written."""
    return os.path.normpath(path) if path else path


def _bare_ids(paths: Sequence[str]) -> set[str]:
    """Paths without their ending, where that stands for one path alone."""
    whole: dict[str, set[str]] = {}
    for path in paths:
        whole.setdefault(os.path.splitext(path)[0], set()).add(path)
    return {bare for bare, found in whole.items() if len(found) == 1} - set(paths)


def _id_of(path: str, bare: set[str]) -> str:
    stem = os.path.splitext(path)[0]
    return escape_id((stem if stem in bare else path).replace(os.sep, "/"))


class _Clip(NamedTuple):
    """A clip of a folder; `subset` is the name of its split's folder."""

    path: Path
    split: str = DEFAULT_SPLIT
    subset: str | None = None
    label: str | None = None


def _read_folder(folder: Path, options: Options) -> list[Trial]:
    """The clips in class folders, and where labels are not required all others too."""
    clips = {clip.path: clip for clip in _labelled_clips(folder, options)}
    if clips and options.require_labels:
        _check_siblings(folder, options)
    if not options.require_labels:
        clips = {path: clips.get(path, _Clip(path)) for path in _clips(folder)}
    if not clips:
        labelled = "folder called bonafide or spoof with audio in it; labels={...} tells which other folders to read"
        sought = f"no {labelled if options.require_labels else 'audio file below it'}"
        raise CorpusNotFoundError(
            f"no clip in {folder}: it holds no table called metadata or manifest, and {sought}.\n{LAYOUT}"
        )
    names = [path.relative_to(folder).as_posix() for path in clips]
    _check_names(folder, names)
    bare = _bare_ids(names)
    return [_folder_trial(clip, _id_of(name, bare), options) for clip, name in zip(clips.values(), names, strict=True)]


def _labelled_clips(folder: Path, options: Options) -> list[_Clip]:
    """Clips in class folders of the folder itself and of its splits, sorted by split."""
    classes = _classes(options)
    splits = [(folder / name, split, name) for name, split in (_FOLDERS | _SPLITS).items()]
    return [
        _Clip(path, split, subset, label)
        for parent, split, subset in [(folder, DEFAULT_SPLIT, None), *splits]
        for name, label in classes.items()
        for path in _clips(parent / name)
    ]


def _classes(options: Options) -> dict[str, str]:
    """Names of the class folders -> labels."""
    return {name: name for name in LABELS} | dict(options.labels or {})


def _check_siblings(folder: Path, options: Options) -> None:
    """
    Raises:
        ProtocolError: for folders with audio beside those of the classes or of the splits: they would go unread.
    """
    problems, splits = Problems(folder), {*_FOLDERS, *_SPLITS}
    for parent in (folder, *(folder / name for name in sorted(splits))):
        known = {*_classes(options), *(splits if parent == folder else ())}
        beside = sorted(parent.iterdir()) if parent.is_dir() else []
        for path in beside:
            if path.name not in known and not path.name.startswith(".") and (clips := _clips(path)):
                name = path.relative_to(folder).as_posix()
                problems.add(
                    0,
                    f"folder {name!r} holds {len(clips)} clips but is no class or split: rename it to bonafide or spoof, or to the split's name in lower case, say what it "
                    f"is with labels={{{path.name!r}: ...}}, or move it elsewhere",
                )
    problems.raise_any()


def _clips(folder: Path) -> list[Path]:
    try:
        return find_audio(folder) if folder.is_dir() else []
    except AudioNotFoundError:
        return []


def _check_names(folder: Path, names: Sequence[str]) -> None:
    problems = Problems(folder)
    for name in names:
        if name.encode("utf-8", "replace") != os.fsencode(name):
            problems.add(0, f"file name {name!r} is not UTF-8: rename it")
    problems.raise_any()


def _folder_trial(clip: _Clip, utterance_id: str, options: Options) -> Trial:
    attributes = codec_attributes(clip.label)
    row = Row(utterance_id, clip.label, options.corpus, str(clip.path), subset=clip.subset, **attributes)
    return Trial(clip.split, row)


def _find(root: Path, config: str) -> dict[str, Path]:
    table = find_manifest(root)
    return {"table": table} if table else {"folder": root}


def _parse(root: Path, config: str, files: Mapping[str, Path], **options: Any) -> dict[str, list[Row]]:
    """Rows by split; what only this data has goes into one column as JSON, since a data set's columns are fixed."""
    splits: dict[str, list[Row]] = {}
    for split, row in _read(root, Options(require_audio=False, **options)):
        known = {name: text for name, text in row.extra.items() if text is not None}
        extra = json.dumps(known, ensure_ascii=False) if known else None
        splits.setdefault(split, []).append(row._replace(extra={"extra": extra}))
    return splits


CORPORA = (
    Corpus(
        name="own",
        title="Your own data",
        homepage="",
        license="unknown",
        license_note="Yours to know: ask those who recorded and those who speak before publishing any of it.",
        citation="",
        description="A CSV, a JSON Lines file or a folder of your own, with the columns audio and label at least.",
        layout=LAYOUT,
        configs={"default": "the whole table or folder"},
        find=_find,
        parse=_parse,
        extra={"extra": "string"},
        options={"labels": None, "allow_outside": False, "require_labels": True},
        redistribution="metadata",
        languages=(),
    ),
)
