"""Writes the recipes of source tracing: `python -m spooftrace.trainers.write_sastnet_recipes`.

One recipe for each row of Tables I, III and IV of "Towards Generalized Source Tracing for Codec-Based Deepfake Speech"
(arXiv 2506.07294). Table II and the figures are of models of Table I. The rows that share an encoder with several tasks are
those of the baseline's own paper (arXiv 2505.12994), whose checkpoints are published beside SASTNet's. A row carries the
figures of the paper that were at hand, and says so where one was not.

As the paper says, a row is trained on the list that its own task balances, and a tuned encoder is one of the same task. The
public code takes the decoder task's list for the auxiliary objective, stops at an undefined name for the decoder task, and
publishes one tuned encoder for all tasks.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from spooftrace.trainers.write_recipes import as_comment, write_files


TRAINING_CORPUS = "codecfake-plus-cors"

COLUMNS = {"cors": "CoRS", "cosg-known": "CoSG kn.", "cosg-all": "CoSG All"}
"""Test sets of Tables I and IV."""

CONTENT = {"cors-seen": "CoRS seen", "cors-unseen": "CoRS unseen"}
"""Test sets of Table III."""

RANDOM_F1 = {
    "vq": {"cors": 32.26, "cosg-known": 29.21, "cosg-all": 30.79},
    "aux": {"cors": 28.78, "cosg-known": 30.94, "cosg-all": 31.04},
    "dec": {"cors": 38.97, "cosg-known": 36.89, "cosg-all": 34.37},
}
"""The paper's row of random guesses: weighted F1 in percent, by task and test set."""

SASTNET_F1 = {
    "vq": {"cors": 98.94, "cosg-known": 46.94, "cosg-all": 48.17},
    "aux": {"cors": 97.90, "cosg-known": 48.13, "cosg-all": 43.47},
    "dec": {"cors": 97.72, "cosg-known": 48.03, "cosg-all": 40.71},
}
"""The paper's row of SASTNet: weighted F1 in percent, by task and test set."""

TASK_NAMES = {"bin": "genuine or not", "vq": "quantiser", "aux": "auxiliary objective", "dec": "decoder"}

ENCODER = "facebook/wav2vec2-xls-r-300m"
AUDIOMAE = "mae_pretrained_base.pth"

_ROMAN = {1: "I", 3: "III", 4: "IV"}


class Row(NamedTuple):
    """
    One row of a table.

    Args:
        name: of the recipe, without the table.
        table: its number.
        row: how the table's row is told here.
        tasks: that the model answers.
        model: what sets it apart: fields of `SASTNetConfig`, or `None` for W2V2-AASIST.
        balance: the attribute by which the training list is balanced, that of the first task by default.
        tuned: whether the encoder is that of the task's baseline.
        f1: published weighted F1 in percent, by task and test set.
        note: what else was published, or is not known.
    """

    name: str
    table: int
    row: str
    tasks: tuple[str, ...]
    model: Mapping[str, Any] | None = None
    balance: str = ""
    tuned: bool = False
    f1: Mapping[str, Mapping[str, float]] = {}
    note: str = ""

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return f"sastnet-table{self.table}-{self.name}"

    @property
    def columns(self) -> dict[str, str]:
        """Test sets of the table."""
        return CONTENT if self.table == 3 else COLUMNS

    @property
    def training_list(self) -> str:
        """The attribute by which the training list is balanced."""
        return self.balance or self.tasks[0]

    @property
    def baseline(self) -> str:
        """The recipe of the baseline whose encoder a tuned row begins with."""
        return f"sastnet-table{self.table}-s-{self.tasks[0]}"


_BASELINE_NOTE = "The baseline's own paper is arXiv 2505.12994; whether Table I repeats this row was not at hand."
_CONTENT_NOTE = (
    "Trained on utterances up to number 250, which is this project's reading of what the table calls seen; tested on those "
    "and on the ones above."
)
_W2V2_NOTE = (
    "The paper prints 41.91 for W2V2 + M-MAE beside 43.47 for SASTNet, on CoSG All; whether the former is of the pretrained "
    "encoder or of the tuned one was not at hand."
)
_MEL = {"frontend": "mel", "use_semantics": False}


def rows() -> list[Row]:
    """All rows, by table."""
    return [*_table_1(), *_table_3(), *_table_4()]


def baseline_of(recipe: str) -> str | None:
    """The recipe whose encoder another one begins with, for the tuned ones."""
    return next((row.baseline for row in rows() if row.recipe == recipe and row.tuned), None)


def _single(table: int, f1: Mapping[str, Mapping[str, float]], note: str = "") -> list[Row]:
    """Baseline and SASTNet with a model for each task."""
    tasks = ("vq", "aux", "dec")
    baselines = [Row(f"s-{task}", table, f"W2V2-AASIST, {TASK_NAMES[task]}", (task,), note=note) for task in tasks]
    return baselines + [
        Row(
            f"sastnet-{task}",
            table,
            f"SASTNet, {TASK_NAMES[task]}",
            (task,),
            {},
            tuned=True,
            f1={task: f1[task]} if f1 else {},
            note=note,
        )
        for task in tasks
    ]


def _table_1() -> list[Row]:
    made = _single(1, SASTNET_F1)
    for task in ("vq", "aux", "dec"):
        row = f"W2V2-AASIST, genuine or not and {TASK_NAMES[task]} (D)"
        made.append(Row(f"d-{task}", 1, row, ("bin", task), balance=task, note=_BASELINE_NOTE))
    for name, tasks in (("m1", ("bin", "vq", "aux", "dec")), ("m2", ("vq", "aux", "dec"))):
        for balance in ("vq", "aux", "dec"):
            row = f"W2V2-AASIST, {len(tasks)} tasks ({name.upper()}), balanced by {TASK_NAMES[balance]}"
            made.append(Row(f"{name}-{balance}", 1, row, tasks, balance=balance, note=_BASELINE_NOTE))
    return made


def _table_3() -> list[Row]:
    return _single(3, {}, _CONTENT_NOTE)


def _table_4() -> list[Row]:
    parts = [
        ("s-mae", "MAE with one decoder, on log-mel (S-MAE)", {**_MEL, "num_decoders": 1}, False, ""),
        ("m-mae", "MAE with a decoder per class, on log-mel (M-MAE)", _MEL, False, ""),
        ("whisper-m-mae", "Whisper + M-MAE", {"frontend": "mel"}, False, ""),
        ("w2v2-m-mae", "pretrained W2V2 + M-MAE", {"use_semantics": False}, False, _W2V2_NOTE),
        ("tuned-w2v2-m-mae", "tuned W2V2 + M-MAE", {"use_semantics": False}, True, _W2V2_NOTE),
        ("sastnet", "SASTNet, pretrained W2V2", {}, False, ""),
        ("tuned-sastnet", "SASTNet, tuned W2V2", {}, True, ""),
    ]
    made = [Row("s-aux", 4, "W2V2-AASIST", ("aux",))]
    for name, row, model, tuned, note in parts:
        f1 = {"aux": SASTNET_F1["aux"]} if name == "tuned-sastnet" else {}
        made.append(Row(name, 4, row, ("aux",), model, tuned=tuned, f1=f1, note=note))
    return made


# --- texts -----------------------------------------------------------------------------------------------------------


def recipe_text(row: Row) -> str:
    """The file of a row."""
    sections = [_header(row), _paper(row), _model(row), _BASELINE if row.model is None else _SASTNET]
    return "\n".join(sections)


def _header(row: Row) -> str:
    table = f"Table {_ROMAN[row.table]} of arXiv 2506.07294"
    figures = [f"{row.columns[name]}: {value:.2f}" for found in row.f1.values() for name, value in found.items()]
    given = f"{table}. The paper's weighted F1 in percent. {'; '.join(figures)}."
    lines = [row.row, given if figures else f"{table}; the paper's figure was not at hand."]
    return as_comment([*lines, row.note, *_needs(row)])


def _needs(row: Row) -> list[str]:
    """What has to be there before the row can be trained."""
    if row.model is None:
        return []
    needs = [f"The autoencoder begins with AudioMAE's weights (CC BY-NC 4.0): --model.audiomae FILE, {AUDIOMAE}."]
    if row.tuned:
        needs.append(
            f"The encoder is that of {row.baseline}, to be trained first: --model.wav2vec2 DIR, its folder. Left out, the "
            "encoder is the pretrained one, which is not this row."
        )
    return needs


def _paper(row: Row) -> str:
    paper = {"table": row.table, "row": row.row}
    if row.f1:
        paper["f1"] = {task: dict(found) for task, found in row.f1.items()}
    return _yaml({"paper": paper})


def _model(row: Row) -> str:
    if row.model is None:
        model: dict[str, Any] = {"family": "aasist", "base_model": ENCODER, "tasks": list(row.tasks)}
    else:
        model = {"family": "sastnet", "task": row.tasks[0], **row.model, **_parts(row)}
    data = {"corpus": TRAINING_CORPUS, "config": row.training_list, "train": "train", "validation": "validation"}
    options = {"options": {"utterances": "seen"}} if row.table == 3 else {}
    trainer = "tracing" if row.model is None else "sastnet"
    return _yaml({"model": model, "data": {**data, **options}, "trainer": trainer})


def _parts(row: Row) -> dict[str, str]:
    """What a SASTNet is put together from."""
    parts = {"audiomae": AUDIOMAE}
    if row.model.get("use_semantics", True):
        parts["whisper"] = "openai/whisper-small"
    if row.model.get("frontend", "wav2vec2") == "wav2vec2":
        parts["wav2vec2"] = ENCODER
    return parts


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, width=117)


_BASELINE = """\
# The public code's: RawBoost 5, its class weights, no schedule, and several tasks that count alike. Its optimiser is
# Adam; here it is AdamW, whose decay is not part of the gradient. The paper says 82,200 samples of all of its models.
learning_rate: 1.0e-6
weight_decay: 1.0e-4
per_device_train_batch_size: 8
num_train_epochs: 20
max_grad_norm: 0.0
num_samples: 64600  # 4.04 s
crop: start
rawboost: 5
class_weights: baseline

# Not given: the seed, and which epoch is taken, of which the code keeps all.
metric_for_best_model: macro_f1
seed: 1234
"""

_SASTNET = """\
# Given in the paper: the learning rate, 40 epochs, 82,200 samples and RawBoost. The public code's: its algorithm 5,
# AdamW, the decay, the cosine by epoch, the batch, the class weights and the seed.
learning_rate: 5.0e-6
lr_scheduler_type: cosine
cosine_step: epoch
weight_decay: 1.0e-4
per_device_train_batch_size: 12
num_train_epochs: 40
num_samples: 82200  # 5.14 s
crop: start
rawboost: 5
class_weights: sastnet
seed: 1234

# Not given: which epoch is taken, of which the code keeps all.
metric_for_best_model: macro_f1
"""


def main() -> None:
    write_files("sastnet-", {row.recipe: recipe_text(row) for row in rows()})


if __name__ == "__main__":
    main()
