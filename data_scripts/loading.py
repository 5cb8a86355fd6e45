"""A corpus as a dataset, in one call."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spooftrace.data_scripts.corpus import MissingAudio
from spooftrace.data_scripts.protocol import CorpusNotFoundError, ProtocolError
from spooftrace.data_scripts.registry import get_corpus


if TYPE_CHECKING:
    import datasets


def load_corpus(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    config: str | None = None,
    split: str | None = None,
    streaming: bool = False,
    missing_audio: MissingAudio = "error",
    cache_dir: str | os.PathLike | None = None,
    num_proc: int | None = None,
    **options: Any,
) -> "datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | datasets.IterableDatasetDict":
    """
    The trials of a corpus with the unified columns, audio as undecoded paths.

    ```python
    train = load_corpus("asvspoof2019-la", "/data/LA", split="train")
    waveform = load_audio(train[0]["audio"]["path"])
    ```

    Without `streaming` the tables are written to a cache, which starts anew whenever a protocol, the clips that are
    there, the options or the version of spooftrace change; of a corpus in parquet files that is a whole copy, audio
    included. Old ones stay until you delete the corpus's folder in the cache, such as
    `~/.cache/huggingface/datasets/asvspoof2019-la`.

    Args:
        name: of the corpus, as `spooftrace corpus list` shows it.
        data_dir: the folder with your copy of it. Not needed where the option `repo` names a dataset on the Hub.
        config: one of its configurations; by default the first one.
        split: such as `"train"`, `"train[:100]"` or `"train+validation"`; by default all, in a dictionary.
        streaming: return an iterable dataset, and write no cache.
        missing_audio: `"error"` for a clip that is not there, `"drop"` its row, or `"ignore"` and keep it. With
            `"error"` a split without any clip counts as not downloaded: it is left out with a warning.
        cache_dir: where the tables go; by default the cache of `datasets`.
        num_proc: processes that build; worth it only where the audio lies in parquet files.
        **options: the corpus's own, as `spooftrace corpus info NAME` shows them.

    Raises:
        CorpusNotFoundError: where there is no corpus, with the expected tree and where to get it.
        ProtocolError: with all problems of a protocol, or with the clips that are missing.
        ValueError: for an unknown corpus, configuration, option or split, and for both a folder and `repo`.
    """
    corpus = get_corpus(name)
    if data_dir and options.get("repo"):
        raise ValueError(
            f"data_dir is {str(data_dir)!r} and repo {options['repo']!r}: give the folder or the Hub's name."
        )
    if not data_dir and not options.get("repo"):
        hub = ", or `repo`, its name on the Hub" if "repo" in corpus.options else ""
        raise CorpusNotFoundError(
            f"{corpus.title} is read from your own copy: give its folder as data_dir{hub}.\n{corpus.layout}"
        )
    from spooftrace.data_scripts.builders import builder_for

    builder = builder_for(name)(
        data_dir=str(Path(data_dir or os.sep).expanduser().absolute()),  # a Hub dataset looks for nothing there
        cache_dir=None if cache_dir is None else str(cache_dir),
        config_name=config,
        missing_audio=missing_audio,
        options=options,
    )
    if streaming:
        return builder.as_streaming_dataset(split=split)
    _prepare(builder, num_proc)
    return builder.as_dataset(split=split)


def _prepare(builder: "datasets.DatasetBuilder", num_proc: int | None) -> None:
    from datasets.exceptions import DatasetGenerationError

    try:
        builder.download_and_prepare(num_proc=num_proc)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ProtocolError | CorpusNotFoundError):
            raise error.__cause__ from None
        raise
