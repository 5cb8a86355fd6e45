"""Trials and score files for the tests of evaluation."""

import json

from spooftrace.score_files import Scores, Trials, join


# Six bona fide trials and eight spoofs of two attacks; the codec is known for both labels.
HAND = [
    # id, label, attack, codec, speaker, score
    ("b1", "bonafide", None, "alaw", "anna", 3.0),
    ("b2", "bonafide", None, "alaw", "anna", 2.0),
    ("b3", "bonafide", None, "alaw", "bela", 1.0),
    ("b4", "bonafide", None, "gsm", "bela", 0.5),
    ("b5", "bonafide", None, "gsm", "carl", -0.5),
    ("b6", "bonafide", None, "gsm", "carl", -1.5),
    ("s1", "spoof", "A07", "alaw", "anna", -3.0),
    ("s2", "spoof", "A07", "alaw", "anna", -2.5),
    ("s3", "spoof", "A07", "gsm", "bela", -2.0),
    ("s4", "spoof", "A07", "gsm", "bela", -1.0),
    ("s5", "spoof", "A08", "alaw", "carl", 1.5),
    ("s6", "spoof", "A08", "alaw", "carl", 0.7),
    ("s7", "spoof", "A08", "gsm", "anna", 0.2),
    ("s8", "spoof", "A08", "opus", "bela", -0.7),
]


def trials_of(rows, **names) -> Trials:
    ids, labels, attacks, codecs, speakers, _ = zip(*rows, strict=True)
    columns = {"attack_id": attacks, "codec": codecs, "speaker_id": speakers}
    return Trials.from_columns({"utterance_id": ids, "label": labels, "audio": ids, **columns}, **names)


def scores_of(rows) -> Scores:
    return Scores("scores.txt", {row[0]: row[5] for row in rows})


def joined(rows=HAND, **names):
    return join(scores_of(rows), trials_of(rows, **names))


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def score_folder(folder, rows, failures, run=None):
    folder.mkdir()
    write(folder / "scores.txt", *(f"{row[0]} {row[5]!r}" for row in rows))
    records = [{"utterance_id": row[0], "score": row[5], "verdict": "spoof"} for row in rows]
    write(folder / "scores.jsonl", *(json.dumps(record) for record in [*records, *failures]), '{"utterance_id": "to')
    if run:
        write(folder / "run.json", json.dumps(run))
    return folder
