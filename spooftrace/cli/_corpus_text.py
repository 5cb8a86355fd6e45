"""What `spooftrace corpus` prints about a corpus, and what it gives to programs."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from spooftrace.results import printable


if TYPE_CHECKING:
    from spooftrace.data_scripts.corpus import Corpus
    from spooftrace.data_scripts.verify import Flaw, Verification

SHOWN = 10
"""Examples that a list shows; it counts the others."""


def list_row(corpus: "Corpus") -> tuple[str, ...]:
    """One line of `spooftrace corpus list`."""
    pushed = {"audio": "yes", "metadata": "metadata only", "refused": "no"}[corpus.redistribution]
    if corpus.name == "own":
        pushed = "with --license"
    default = [totals.rows for (config, _), totals in corpus.totals.items() if config == corpus.default_config]
    trials = f"{sum(default):,}" if default else "-"
    return corpus.name, ", ".join(corpus.configs), trials, corpus.license, pushed


def facts_of(corpus: "Corpus") -> dict[str, Any]:
    """What is known of a corpus, for programs."""
    names = ("name", "title", "homepage", "license", "license_note", "redistribution", "description")
    totals = [
        {"config": config, "split": split, **totals._asdict()} for (config, split), totals in corpus.totals.items()
    ]
    facts = {name: getattr(corpus, name) for name in names}
    return {**facts, "configs": dict(corpus.configs), "options": dict(corpus.options), "totals": totals}


def print_info(corpus: "Corpus") -> None:
    """Where to get a corpus, what may be done with it, how it should lie on disk, and its options."""
    print(f"{corpus.title} ({corpus.name})\n\n{corpus.description}\n")
    print(f"licence: {corpus.license}. {corpus.license_note}")
    if corpus.homepage:
        print(f"homepage: {corpus.homepage}")
    print("\nconfigurations:")
    print_table([(f"  {name}", text) for name, text in corpus.configs.items()])
    if corpus.options:
        print("\noptions (--option KEY=VALUE):")
        print_table([(f"  {name}", f"default: {value}") for name, value in corpus.options.items()])
    if corpus.totals:
        head = ("  published", "split", "bona fide", "spoof")
        rows = [
            (f"  {config}", split, f"{n.bonafide:,}", f"{n.spoof:,}") for (config, split), n in corpus.totals.items()
        ]
        print()
        print_table([head, *rows])
    print(f"\n{corpus.layout}")


def verification_facts(found: "Verification") -> dict[str, Any]:
    """What a check found, for programs; all flaws are listed."""
    counts = [
        {"split": split, "found": here._asdict(), "published": published and published._asdict()}
        for split, here, published in found.counts
    ]
    plain = {"corpus": found.corpus, "config": found.config, "is_whole": found.is_whole, "counts": counts}
    flaws = {name: [flaw._asdict() for flaw in getattr(found, name)] for name in ("missing", "unreadable")}
    return {**plain, "attacks": found.attacks, **flaws, "decoded": found.decoded}


def print_verification(found: "Verification") -> None:
    """Counts beside the published ones, attacks, and the first flaws."""
    rows = []
    for split, here, published in found.counts:
        expected = (f"{published.bonafide:,}", f"{published.spoof:,}") if published else ("-", "-")
        note = "" if published in (None, here) else "differs"
        rows.append((split, f"{here.bonafide:,}", f"{here.spoof:,}", *expected, note))
    print_table([("split", "bona fide", "spoof", "published bona fide", "published spoof", ""), *rows])
    attacks = sorted({name for split in found.attacks.values() for name in split})
    if attacks:
        print()
        counts = [(name, *(f"{split[name]:,}" for split in found.attacks.values())) for name in attacks]
        print_table([("attack", *found.attacks), *counts])
    for what, flaws in (("without a clip", found.missing), ("with a clip that does not decode", found.unreadable)):
        if flaws:
            print(f"\n{len(flaws):,} {'trial' if len(flaws) == 1 else 'trials'} {what}:")
            _print_flaws(flaws)
    decoded = f" {found.decoded:,} clips decoded." if found.decoded else ""
    print(f"\n{found.corpus} ({found.config}): {'whole' if found.is_whole else 'NOT whole'}.{decoded}")


def _print_flaws(flaws: Sequence["Flaw"]) -> None:
    for flaw in flaws[:SHOWN]:
        print(printable(f"  {flaw.split}  {flaw.utterance_id}  {flaw.message}"))
    if len(flaws) > SHOWN:
        print(f"  and {len(flaws) - SHOWN:,} more; --json lists all")


def print_table(rows: Iterable[Sequence[str]]) -> None:
    """Rows as columns of equal width."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
