"""What a corpus is: where it comes from, what may be done with it, how many trials it has, and how to read it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from spooftrace.data_scripts.protocol import SHOWN, Problem, ProtocolError
from spooftrace.data_scripts.rows import Row


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
        find: `find(root, config)` -> the protocol files by name of their part. What they hold decides the cache.
        parse: `parse(root, config, files, **options)` -> rows of each split, in the order of the protocol. Rows whose
            clip is not there have `audio=None`.
        extra: columns beyond the unified row -> their type, `"string"`, `"int64"`, `"float64"` or `"bool"`.
        options: what `parse` takes besides -> its default.
        totals: `(config, split)` -> published numbers.
        redistribution: what may be pushed: `"audio"`, `"metadata"` only, or nothing (`"refused"`).
        source_speech: where the genuine speech comes from, such as `("VCTK",)`.
        languages: ISO 639-1 codes.
        reads_audio: `False` for a corpus whose audio lies in parquet files or nowhere.
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
    redistribution: Literal["audio", "metadata", "refused"] = "audio"
    source_speech: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    reads_audio: bool = True

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
            missing_audio: `"error"` for a clip that is not there, `"drop"` its row, or `"ignore"` and keep it.
            **options: see `options`.

        Raises:
            CorpusNotFoundError: where the protocol is not there.
            ProtocolError: with all problems of a protocol, or with the clips that are missing.
            ValueError: for an unknown configuration or option.
        """
        config = self.check_config(config)
        unknown = options.keys() - self.options.keys()
        if unknown:
            raise ValueError(f"{self.name} has no option {', '.join(sorted(unknown))}; it has {list(self.options)}.")
        root = Path(root).expanduser().absolute()
        files = self.find(root, config)
        splits = self.parse(root, config, files, **{**self.options, **options})
        if not self.reads_audio or missing_audio == "ignore":
            return {name: list(rows) for name, rows in splits.items()}
        if missing_audio == "error":
            self._require_audio(splits, next(iter(files.values()), root))
        return {name: [row for row in rows if row.audio] for name, rows in splits.items()}

    def _require_audio(self, splits: Mapping[str, Iterable[Row]], path: Path) -> None:
        missing = [(split, row) for split, rows in splits.items() for row in rows if row.audio is None]
        if not missing:
            return
        total = sum(len(rows) for rows in splits.values())
        remedy = f'complete the download, or pass missing_audio="drop" to go on without them.\n{self.layout}'
        examples = [f"no audio for {row.utterance_id!r} ({split})" for split, row in missing[:SHOWN]]
        head = f"{len(missing)} of {total} clips are not below the corpus's folder: {remedy}"
        raise ProtocolError(path, [Problem(0, head), *(Problem(0, text) for text in examples)])


class Count(NamedTuple):
    """What a split holds, beside what was published; `expected` is `None` where nothing was."""

    split: str
    found: Totals
    expected: Totals | None

    @property
    def matches(self) -> bool:
        return self.expected is None or self.found == self.expected


def count(corpus: Corpus, config: str, splits: Mapping[str, Iterable[Row]]) -> list[Count]:
    """Numbers of trials per split beside the published ones; a published split that is absent counts as empty."""
    labels = {split: [row.label for row in rows] for split, rows in splits.items()}
    published = [split for name, split in corpus.totals if name == config]
    return [
        Count(
            split,
            Totals(labels.get(split, []).count("bonafide"), labels.get(split, []).count("spoof")),
            corpus.totals.get((config, split)),
        )
        for split in dict.fromkeys([*labels, *published])
    ]
