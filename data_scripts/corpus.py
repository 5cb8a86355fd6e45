"""What a corpus is: where it comes from, what may be done with it, how many trials it has, and how to read it."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from spooftrace.data_scripts.protocol import SHOWN, Problem, ProtocolError
from spooftrace.data_scripts.rows import Row


if TYPE_CHECKING:
    import pyarrow as pa


MissingAudio = Literal["error", "drop", "ignore"]


class Totals(NamedTuple):
    """Published numbers of trials of one split."""

    bonafide: int
    spoof: int

    @property
    def rows(self) -> int:
        return self.bonafide + self.spoof


@dataclass(frozen=True)
class Corpus:
    """
    One corpus. Its parser is pure: folders in, rows out, no dataset library.

    Args:
        name: as in `spooftrace corpus build NAME`.
        title: in prose.
        homepage: where to get it.
        license: an identifier of the Hub, such as `"odc-by"`, or `"other"`.
        license_note: what the licence means for users, where it came from, and what is not verified.
        citation: of the corpus's paper, as plain text.
        description: two or three sentences.
        layout: the expected tree and how to obtain it; part of error messages.
        configs: name of each configuration -> what it is. The first one is the default.
        find: `find(root, config)` -> the protocol files; by name of the split or `Row.subset`, where there are several.
            What they hold decides the cache.
        parse: `parse(root, config, files, **options)` -> rows of each split, in the order of the protocol. Rows whose
            clip is not there have `audio=None`.
        extra: columns beyond the unified row -> their type, `"string"`, `"int64"`, `"float64"` or `"bool"`.
        options: what `parse` takes besides -> its default.
        totals: `(config, split)` -> published numbers.
        selector: the one of the options that chooses among the trials, if there is one.
        selected_totals: `(config, split, value of the selector)` -> published numbers.
        version: of the parser, raised when it makes other rows of the same files; part of the cache's name.
        redistribution: what may be pushed: `"audio"`, `"metadata"` only, or nothing (`"refused"`).
        source_speech: where the genuine speech comes from, such as `("VCTK",)`.
        languages: ISO 639-1 codes.
        reads_audio: `False` for a corpus whose audio lies in parquet files or nowhere.
        tables: for a corpus whose audio lies in parquet files: `tables(root, config, files, **options)` -> the pieces
            of each split, such as a file and a row group. A piece is a plain value that can be pickled; its `repr`
            decides the cache, so that it holds what changes with the contents (size, time of change).
        read_table: piece -> its rows as a table: the columns of the unified row and the extra ones, those that are
            all null left out if wanted; labels as text; `audio` as a path or as a struct of `bytes` and `path`.
    """

    name: str
    title: str
    homepage: str
    license: str
    license_note: str
    citation: str
    description: str
    layout: str
    configs: Mapping[str, str]
    find: Callable[[Path, str], Mapping[str, Path]]
    parse: Callable[..., Mapping[str, Sequence[Row]]]
    extra: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    totals: Mapping[tuple[str, str], Totals] = field(default_factory=dict)
    selector: str | None = None
    selected_totals: Mapping[tuple[str, str, Any], Totals] = field(default_factory=dict)
    version: int = 1
    redistribution: Literal["audio", "metadata", "refused"] = "audio"
    source_speech: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    reads_audio: bool = True
    tables: Callable[..., Mapping[str, Sequence[Any]]] | None = None
    read_table: Callable[[Any], "pa.Table"] | None = None

    @property
    def default_config(self) -> str:
        return next(iter(self.configs))

    def check_config(self, config: str | None) -> str:
        """The name of a configuration, the default one for `None`."""
        config = config or self.default_config
        if config not in self.configs:
            raise ValueError(f"{self.name} has no configuration {config!r}; it has {', '.join(self.configs)}.")
        return config

    def read(
        self,
        root: Path,
        config: str | None = None,
        *,
        missing_audio: MissingAudio = "error",
        **options: Any,
    ) -> dict[str, list[Row]]:
        """
        The rows of every split.

        Args:
            root: the folder of the corpus.
            config: a configuration's name; by default the first one.
            missing_audio: `"error"` for a clip that is not there, `"drop"` its row, or `"ignore"` and keep it. With
                `"error"` a split without any clip is left out with a warning, as it was not downloaded; not all of them.
            **options: see `options`.

        Raises:
            CorpusNotFoundError: where the protocol is not there.
            ProtocolError: with all problems of a protocol, or with the clips that are missing.
            ValueError: for an unknown configuration or option.
        """
        if missing_audio not in get_args(MissingAudio):
            raise ValueError(f"missing_audio is {missing_audio!r}; it is one of {', '.join(get_args(MissingAudio))}.")
        root, config, files, options = self._locate(root, config, options)
        splits = self.parse(root, config, files, **options)
        if not self.reads_audio or missing_audio == "ignore":
            return {name: list(rows) for name, rows in splits.items()}
        if missing_audio == "error":
            splits = self._downloaded(splits)
            self._require_audio(splits, files or {"": root})
        return {name: [row for row in rows if row.audio] for name, rows in splits.items()}

    def read_pieces(self, root: Path, config: str | None = None, **options: Any) -> dict[str, list[Any]]:
        """
        What `tables` finds: the pieces of every split, for `read_table`.

        Raises:
            As `read` does.
        """
        root, config, files, options = self._locate(root, config, options)
        return {name: list(pieces) for name, pieces in self.tables(root, config, files, **options).items()}

    def _locate(
        self, root: Path, config: str | None, options: Mapping[str, Any]
    ) -> tuple[Path, str, Mapping[str, Path], dict[str, Any]]:
        """Absolute root, name of the configuration, protocol files and all options, each checked."""
        config = self.check_config(config)
        unknown = options.keys() - self.options.keys()
        if unknown:
            known = f"it has {', '.join(self.options)}" if self.options else "it takes none"
            raise ValueError(f"{self.name} has no option {', '.join(sorted(unknown))}; {known}.")
        root = Path(root).expanduser().absolute()
        return root, config, self.find(root, config), {**self.options, **options}

    def published(self, config: str, options: Mapping[str, Any] | None = None) -> dict[str, Totals]:
        """The published numbers of each split, as far as there are any, of the trials that the options select."""
        default = self.options.get(self.selector)
        value = (options or {}).get(self.selector, default)
        selected = {
            (name, split): found for (name, split, chosen), found in self.selected_totals.items() if chosen == value
        }
        totals = self.totals if value == default else selected
        return {split: found for (name, split), found in totals.items() if name == config}

    def _downloaded(self, splits: Mapping[str, Sequence[Row]]) -> Mapping[str, Sequence[Row]]:
        """Without the splits of which there is no clip at all, unless that is all of them."""
        there = {name: rows for name, rows in splits.items() if any(row.audio for row in rows)}
        absent = [name for name in splits if name not in there]
        if there and absent:
            text = f"{self.name}: no clip of {', '.join(absent)} is there, so that is left out"
            warnings.warn(text, stacklevel=6)  # the caller of load_corpus
        return there or splits

    def _require_audio(self, splits: Mapping[str, Sequence[Row]], files: Mapping[str, Path]) -> None:
        if all(row.audio for rows in splits.values() for row in rows):
            return
        trials: dict[Path, list[tuple[str, Row]]] = {}
        for split, rows in splits.items():
            for row in rows:
                path = files.get(split) or files.get(row.subset) or next(iter(files.values()))
                trials.setdefault(path, []).append((split, row))
        missing = {
            path: gone for path, found in trials.items() if (gone := [pair for pair in found if not pair[1].audio])
        }
        first = next(iter(missing))
        texts = [_missing(gone, len(trials[path]), None if path == first else path) for path, gone in missing.items()]
        texts[-1] += (
            f': complete the download, or pass missing_audio="drop" (--missing-audio drop) to go on without.\n{self.layout}'
        )
        lines = [gone[0][1].line if path == first else 0 for path, gone in missing.items()]
        raise ProtocolError(first, [Problem(line, text) for line, text in zip(lines, texts, strict=True)])


def _missing(trials: Sequence[tuple[str, Row]], total: int, path: Path | None) -> str:
    """What lacks its clip in a protocol, by its lines; `path` where that is not the file that the error is about."""
    where = f" of {path}" if path else ""
    shown = [
        f"{row.utterance_id!r} ({split}{f', line {row.line}' if row.line else ''})" for split, row in trials[:SHOWN]
    ]
    return f"{len(trials)} of {total} clips{where} have no audio file, such as {', '.join(shown)}"


class Count(NamedTuple):
    """What a split holds, beside what was published; `expected` is `None` where nothing was."""

    split: str
    found: Totals
    expected: Totals | None

    @property
    def matches(self) -> bool:
        return self.expected is None or self.found == self.expected


def count(
    corpus: Corpus, config: str, splits: Mapping[str, Iterable[Row]], options: Mapping[str, Any] | None = None
) -> list[Count]:
    """
    Numbers of trials per split beside the published ones; a published split that is absent counts as empty.

    Where options select trials, the published numbers are those of the selection.
    """
    published = corpus.published(config, options)
    labels = {split: [row.label for row in rows] for split, rows in splits.items()}
    return [
        Count(
            split,
            Totals(labels.get(split, []).count("bonafide"), labels.get(split, []).count("spoof")),
            published.get(split),
        )
        for split in dict.fromkeys([*labels, *published])
    ]
