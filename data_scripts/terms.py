"""What may be pushed of a corpus, and under which terms."""

from dataclasses import replace

from spooftrace.data_scripts.corpus import Corpus


class RedistributionError(ValueError):
    """What was to be pushed may not be passed on."""


def check_redistribution(corpus: Corpus, metadata_only: bool) -> None:
    """
    Raises:
        RedistributionError: where a corpus may not be pushed, or only without its audio.
    """
    if corpus.redistribution == "refused":
        raise RedistributionError(f"{corpus.title} may not be passed on, so it is not pushed: {corpus.license_note}")
    if corpus.redistribution == "metadata" and not metadata_only:
        if corpus.name == "own":
            raise RedistributionError(
                "nothing says that the audio of your own data may be passed on: ask those who recorded and those who "
                "speak, then state the licence with --license; --metadata-only pushes no audio"
            )
        raise RedistributionError(
            f"the audio of {corpus.title} may not be passed on: {corpus.license_note} Push the metadata without the "
            "audio with --metadata-only"
        )


def describe_own(corpus: Corpus, *, license: str | None = None, title: str | None = None) -> Corpus:
    """
    A user's own data under the terms and the title that their owner states.

    With a licence the audio may be pushed.

    Raises:
        ValueError: for any other corpus: its terms are not the user's to state.
    """
    if license is None and title is None:
        return corpus
    if corpus.name != "own":
        raise ValueError(
            f"{corpus.title} is not your own data but under {corpus.license}: leave out --license and --title"
        )
    stated = {"license_note": "As stated by whoever built this dataset.", "redistribution": "audio"} if license else {}
    return replace(corpus, title=title or corpus.title, license=license or corpus.license, **stated)
