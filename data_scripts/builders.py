"""One dataset builder per corpus.

`datasets` replaces `open`, `os` and `pa` in this module when a builder is instantiated. So nothing else lives here: the
parsers read, `arrow_tables` makes the tables.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import datasets

from spooftrace.data_scripts.arrow_tables import Contents, features_of, read_contents, read_piece
from spooftrace.data_scripts.corpus import Corpus, MissingAudio
from spooftrace.data_scripts.registry import corpora, get_corpus


__all__ = ["CorpusBuilder", "CorpusConfig", "builder_for", "features_of"]


@dataclass
class CorpusConfig(datasets.BuilderConfig):
    """
    How a corpus is read.

    Args:
        missing_audio: `"error"` for a clip that is not there, `"drop"` its row, or `"ignore"` and keep it.
        options: the corpus's own, by name.
    """

    missing_audio: MissingAudio = "error"
    options: dict[str, Any] = field(default_factory=dict)


class CorpusBuilder(datasets.ArrowBasedBuilder):
    """
    Builds one corpus from the user's own copy; each subclass names its `corpus`.

    The protocols are read at once: what they hold is part of the cache's name, so that a changed protocol, a clip that
    has come or gone, and another folder each have a cache of their own.

    Args:
        data_dir: the folder of the corpus.
        cache_dir: where the tables go; by default the cache of `datasets`.
        config_name: by default the corpus's first configuration.
        missing_audio, options: see `CorpusConfig`.
        **kwargs: of `datasets.DatasetBuilder`.

    Raises:
        What `Corpus.read` raises.
    """

    BUILDER_CONFIG_CLASS = CorpusConfig
    VERSION = datasets.Version("1.0.0")
    corpus: Corpus

    def __init__(
        self,
        data_dir: str,
        cache_dir: str | None = None,
        config_name: str | None = None,
        missing_audio: MissingAudio = "error",
        options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        config_name, options = self.corpus.check_config(config_name), dict(options or {})
        self._contents: Contents | None = read_contents(self.corpus, data_dir, config_name, missing_audio, options)
        super().__init__(
            cache_dir=cache_dir,
            data_dir=str(data_dir),
            config_name=config_name,
            missing_audio=missing_audio,
            options=options,
            **{"dataset_name": self.corpus.name, "hash": self._contents.digest, **kwargs},
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_contents": None}  # each worker process gets its pieces as arguments

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=self.corpus.description,
            citation=self.corpus.citation,
            homepage=self.corpus.homepage,
            license=self.corpus.license,
            features=features_of(self.corpus),
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        if self._contents is None:
            config = self.config
            self._contents = read_contents(
                self.corpus, config.data_dir, config.name, config.missing_audio, config.options
            )
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"pieces": pieces})
            for split, pieces in self._contents.pieces.items()
        ]

    def _generate_tables(self, pieces: list[Any]) -> Iterator[tuple[int, Any]]:
        for index, piece in enumerate(pieces):
            yield index, read_piece(self.corpus, piece)


def builder_for(name: str) -> type[CorpusBuilder]:
    """
    The builder of a corpus.

    Raises:
        ValueError: for an unknown name, with the known ones.
    """
    return globals()[_class_name(get_corpus(name))]


def _class_name(corpus: Corpus) -> str:
    return "".join(part.capitalize() for part in corpus.name.split("-")) + "Builder"


def _define(corpus: Corpus) -> type[CorpusBuilder]:
    configs = [
        CorpusConfig(name=name, version=CorpusBuilder.VERSION, description=text)
        for name, text in corpus.configs.items()
    ]
    members = {
        "__module__": __name__,
        "__doc__": f"Builds {corpus.title}; see `CorpusBuilder`.",
        "corpus": corpus,
        "BUILDER_CONFIGS": configs,
        "DEFAULT_CONFIG_NAME": corpus.default_config,
    }
    return type(_class_name(corpus), (CorpusBuilder,), members)


# Worker processes find a builder's class by its name in this module.
globals().update({_class_name(corpus): _define(corpus) for corpus in corpora().values()})
