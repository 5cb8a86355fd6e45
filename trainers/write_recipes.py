"""Writes `trainers/recipes/`: `python -m spooftrace.trainers.write_recipes`.

One recipe for each row of Tables 3, 4 and 5 of "Generalizable speech deepfake detection via meta-learned LoRA" (arXiv
2502.10838, version 1). The rows differ in a number or two, and these files are how they stay alike in all others. A row
carries the figures of the paper that were at hand, and says so where one was not.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple


FOLDER = Path(__file__).parent / "recipes"

CORPORA = {
    "asvspoof2019-la": "2019 LA",
    "asvspoof2021-la": "2021 LA",
    "asvspoof2021-df": "2021 DF",
    "in-the-wild": "In-the-Wild",
    "fakeavceleb": "FakeAVCeleb",
    "asvspoof5": "ASVspoof 5",
}
"""The test corpora of the paper."""

PROJECTIONS = {"q": "query", "k": "key", "v": "value", "o": "output"}
_MODULES = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}

RANKS = (2, 4, 8, 16)
SEEDS = (2023, 42, 999, 123, 555)

# Front end 315,438,720, of which 24 layers of width 1,024 are adapted; back-end 447,242.
WHOLE, BACK_END = 315_885_962, 447_242
PER_RANK_AND_PROJECTION = 24 * 2 * 1024


class Row(NamedTuple):
    """
    One row of a table.

    Args:
        name: of the recipe.
        table: its number.
        row: how the table's row is told here.
        trainer: `"erm"` or `"mldg"`.
        rank: of the adapters; `None` trains everything.
        targets: letters of `PROJECTIONS`.
        seed: of everything random.
        eer: published EERs in percent, by corpus.
        average: their published average over the six corpora, in percent.
        note: what else was published, or is not known.
    """

    name: str
    table: int
    row: str
    trainer: str
    rank: int | None = None
    targets: str = "qkvo"
    seed: int = 42
    eer: dict[str, float] = {}
    average: float | None = None
    note: str = ""

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        if self.rank is None:
            return WHOLE
        return BACK_END + PER_RANK_AND_PROJECTION * self.rank * len(self.targets)


_MLDG_4 = {
    "asvspoof2019-la": 0.36,
    "asvspoof2021-la": 4.33,
    "asvspoof2021-df": 4.33,
    "in-the-wild": 8.53,
    "fakeavceleb": 2.30,
    "asvspoof5": 13.39,
}
_TABLE_3 = {
    ("erm", None): ({"asvspoof2019-la": 0.28}, 8.55, "Version 2 of the paper gives an average of 8.84 %."),
    ("erm", 2): ({"asvspoof2021-df": 3.85}, None, ""),
    ("mldg", 4): (_MLDG_4, 5.54, ""),
    ("mldg", 16): ({}, None, "Version 2 of the paper gives its best average, 5.30 %, for 3.6 million parameters."),
}
_TABLE_4 = {"qkv": {"asvspoof2019-la": 0.17}}
_TABLE_4_NOTE = (
    "Which subsets, which rank and which trainer its other rows have was not at hand: here rank 16 and MLDG."
)

SEED_SPREAD = {"fakeavceleb": (5.38, 4.61), "in-the-wild": (10.22, 2.31)}
"""Mean and standard deviation of the EERs over the seeds of Table 5, in percent, as far as they were at hand."""

_TABLE_5_NOTE = (
    "Over the five seeds, the paper gives "
    + ", ".join(f"{CORPORA[name]} {middle:.2f} +- {spread:.2f} %" for name, (middle, spread) in SEED_SPREAD.items())
    + ", and averages from 3.65 % to 8.29 %."
)


def rows() -> list[Row]:
    """All rows, by table."""
    return [*_table_3(), *_table_4(), *_table_5()]


def _table_3() -> list[Row]:
    settings = [("erm", None), *(("erm", rank) for rank in RANKS), *(("mldg", rank) for rank in RANKS)]
    made = []
    for trainer, rank in settings:
        eer, average, note = _TABLE_3.get((trainer, rank), ({}, None, ""))
        name = "mldg-table3-full" if rank is None else f"mldg-table3-{trainer}-r{rank}"
        row = "ERM, full fine-tuning" if rank is None else f"{trainer.upper()}, LoRA of rank {rank}"
        made.append(Row(name, 3, row, trainer, rank, eer=eer, average=average, note=note))
    return made


def _table_4() -> list[Row]:
    subsets = ["".join(subset) for size in range(1, 5) for subset in combinations(PROJECTIONS, size)]
    return [
        Row(
            f"mldg-table4-{subset}",
            4,
            f"LoRA of rank 16 on {_listed([PROJECTIONS[letter] for letter in subset])}",
            "mldg",
            16,
            subset,
            eer=_TABLE_4.get(subset, {}),
            note=_TABLE_4_NOTE,
        )
        for subset in subsets
    ]


def _table_5() -> list[Row]:
    made = []
    for seed in SEEDS:
        eer = {"fakeavceleb": 1.24} if seed == 555 else {}
        name, row = f"mldg-table5-seed{seed}", f"ERM, LoRA of rank 8, seed {seed}"
        made.append(Row(name, 5, row, "erm", 8, seed=seed, eer=eer, note=_TABLE_5_NOTE))
    return made


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


_ARGUMENTS = {
    "mldg": """\
# Given in the paper: AdamW and a learning rate that cycles between these two, one inner step by Adam, the attacks as
# domains with the genuine clips divided among them, and an end after ten evaluations without improvement.
learning_rate: 1.0e-5
minimum_learning_rate: 1.0e-7
inner_optimizer: adam
inner_learning_rate: 1.0e-3
domain_column: attack_id
early_stopping_patience: 10

# Not given; see MLDGConfig for the reasons.
num_meta_test_domains: 2
beta: 1.0
clips_per_domain: 4
balance_labels: true
batch_norm: meta-train
cycle_steps: 4000
""",
    "erm": """\
# Given in the paper: AdamW, a learning rate that cycles between these two, and an end after ten evaluations without
# improvement.
learning_rate: 1.0e-5
minimum_learning_rate: 1.0e-7
early_stopping_patience: 10

# Not given. As many clips to a step as MLDG has, four of each of six attacks; weights as in SSL_Anti-spoofing, since
# there are nine spoofs to a genuine clip.
per_device_train_batch_size: 24
class_weights: {bonafide: 0.9, spoof: 0.1}
cycle_steps: 4000
""",
}

_COMMON = """\
weight_decay: 1.0e-4
num_train_epochs: 100
num_samples: 64600  # 4.04 s, the first of a longer clip in evaluation
crop: random
rawboost: 0
metric_for_best_model: eer  # of the development set; the paper does not say whether EER or loss
seed: {seed}{seed_note}
"""

_ALPHA_NOTE = (
    'lora_alpha is 2 r by default: the "scaling factor 2" read as alpha / r. The other reading is lora_alpha: 2'
)


def recipe_text(row: Row) -> str:
    """The file of a row."""
    return "\n".join([_header(row), _paper(row), _model(row), _ARGUMENTS[row.trainer] + _common(row)])


def _header(row: Row) -> str:
    figures = [f"{CORPORA[name]}: {value:.2f}" for name, value in row.eer.items()]
    figures += [f"average of the six: {row.average:.2f}"] if row.average is not None else []
    lines = [
        f"{row.row}: {row.trained:,} trained parameters",
        f"Table {row.table} of arXiv 2502.10838, version 1. The paper's EER in percent. {'; '.join(figures)}."
        if figures
        else f"Table {row.table} of arXiv 2502.10838, version 1; the paper's figure was not at hand.",
    ]
    if figures and len(row.eer) < len(CORPORA):
        lines.append("For the other corpora, the paper's figure was not at hand.")
    return as_comment([*lines, row.note])


def as_comment(lines: Iterable[str]) -> str:
    """Lines of YAML comments, each of these from the beginning of one."""
    return "".join(f"# {part}\n" for line in lines for part in textwrap.wrap(line, 117, break_on_hyphens=False))


def _paper(row: Row) -> str:
    lines = ["paper:", f"  table: {row.table}", f"  row: {row.row}"]
    if row.eer:
        lines += ["  eer:", *(f"    {name}: {value}" for name, value in row.eer.items())]
    lines += [f"  average: {row.average}"] if row.average is not None else []
    return "\n".join(lines) + "\n"


def _model(row: Row) -> str:
    lines = ["model:", "  base_model: facebook/wav2vec2-large-xlsr-53"]
    if row.rank is None:
        lines.append("lora: null  # the whole encoder is trained")
    else:
        lines += [
            "lora:",
            f"  r: {row.rank}",
            f"  # {_ALPHA_NOTE}",
            f"  target_modules: [{', '.join(_MODULES[letter] for letter in row.targets)}]",
        ]
    lines += [
        "data:",
        "  corpus: asvspoof2019-la  # its folder: --data.dir",
        "  train: train",
        "  validation: validation",
        f"trainer: {row.trainer}",
    ]
    return "\n".join(lines) + "\n"


def _common(row: Row) -> str:
    note = "" if row.table == 5 else "  # one of the five of Table 5"
    return _COMMON.format(seed=row.seed, seed_note=note)


def write_files(beginning: str, texts: Mapping[str, str]) -> None:
    """Writes recipes by name, in the place of all whose names have this beginning."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob(f"{beginning}*.yaml"):
        path.unlink()
    for name, text in texts.items():
        (FOLDER / f"{name}.yaml").write_text(text, encoding="utf-8")
    print(f"{len(texts)} recipes written to {FOLDER}")


def main() -> None:
    write_files("mldg-table", {row.name: recipe_text(row) for row in rows()})


if __name__ == "__main__":
    main()
