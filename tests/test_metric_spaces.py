"""The metric Spaces: `evaluate.load` of a folder and of a Hub gives the numbers of `spooftrace.metrics`; the pages work."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import warm_python
import yaml

from spooftrace import metrics
from spooftrace.spaces.metric_spaces import SLUGS, write_metric_space


for _name in ("datasets", "evaluate", "gradio"):
    pytest.importorskip(_name)

RANDOM = np.random.default_rng(7)
BONAFIDE, SPOOF = RANDOM.normal(1, 1, 60).round(2), RANDOM.normal(-1, 1, 140).round(2)
ASV = metrics.AsvErrorRates(miss=0.05, false_alarm=0.05, spoof_false_alarm=0.4)


def expected() -> dict[str, float]:
    """The four metrics of the trials above, and one of each with another argument."""
    return {
        "eer": metrics.eer(BONAFIDE, SPOOF).eer,
        "eer rocch": metrics.eer(BONAFIDE, SPOOF, method="rocch").eer,
        "eer threshold": metrics.eer(BONAFIDE, SPOOF).threshold,
        "min_dcf": metrics.min_dcf(BONAFIDE, SPOOF).cost,
        "min_dcf 0.5": metrics.min_dcf(BONAFIDE, SPOOF, p_spoof=0.5).cost,
        "min_tdcf": metrics.min_tdcf(BONAFIDE, SPOOF, metrics.ASVSPOOF5_ASV).cost,
        "min_tdcf 2019": metrics.min_tdcf(BONAFIDE, SPOOF, ASV, version="2019").cost,
        "cllr": metrics.cllr(BONAFIDE, SPOOF),
    }


# Loads the metrics from sys.argv[1], a folder or a user of the Hub, and measures the trials of standard input.
MEASURE = """
import json, sys
import evaluate
bonafide, spoof = json.load(sys.stdin)
scores, labels = bonafide + spoof, [0] * len(bonafide) + [1] * len(spoof)
trials = {"predictions": scores, "references": labels}
eer, min_dcf, min_tdcf, cllr = (
    evaluate.load(f"{sys.argv[1]}/{slug}", module_type="metric") for slug in ("eer", "min_dcf", "min_tdcf", "cllr")
)
asv = {"asv_miss": 0.05, "asv_false_alarm": 0.05, "asv_spoof_false_alarm": 0.4}
found = {
    "eer": eer.compute(**trials)["eer"],
    "eer rocch": eer.compute(**trials, method="rocch")["eer"],
    "eer threshold": eer.compute(**trials)["threshold"],
    "min_dcf": min_dcf.compute(**trials)["min_dcf"],
    "min_dcf 0.5": min_dcf.compute(**trials, p_spoof=0.5)["min_dcf"],
    "min_tdcf": min_tdcf.compute(**trials)["min_tdcf"],
    "min_tdcf 2019": min_tdcf.compute(**trials, **asv, version="2019")["min_tdcf"],
    "cllr": cllr.compute(**trials)["cllr"],
}
"""

# How trials come in, after MEASURE.
WAYS = """
eer.add_batch(predictions=scores[:70], references=labels[:70])
for score, label in zip(scores[70:], labels[70:]):
    eer.add(prediction=score, reference=label)
flipped = {"predictions": scores, "references": [1 - label for label in labels]}
ways = {
    "in parts": eer.compute()["eer"],
    "other ids": eer.compute(**flipped, bonafide_label=1)["eer"],
    "combined": evaluate.combine([eer, min_dcf]).compute(**trials),
}
def message(predictions, references, **options):
    try:
        return repr(eer.compute(predictions=predictions, references=references, **options))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
errors = {
    "length": message([1.0, 2.0], [0]),
    "one class": message([1.0, 2.0], [0, 0]),
    "not finite": message([1.0, float("nan")], [0, 1]),
    "unlabelled": message([1.0, 2.0, 3.0], [0, 1, -1]),
    "no label": message([1.0, 2.0, 3.0], [0, 1, None]),
    "empty": message([], []),
    "after them": message([1.0, 0.0], [0, 1]),
}
found |= {"ways": ways, "errors": errors}
"""

PRINT = "print(json.dumps(found))"


def run(program: str, *arguments: str, env: dict[str, str], cwd) -> dict:
    """What a fresh process prints last, as JSON."""
    trials = json.dumps([BONAFIDE.tolist(), SPOOF.tolist()])
    done = warm_python.run("-c", program, *arguments, input=trials, env=env, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def offline(tmp_path_factory) -> dict[str, str]:
    home = str(tmp_path_factory.mktemp("home"))
    where = {"HF_HOME": home, "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "NO_PROXY": "127.0.0.1"}
    return {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | where


@pytest.fixture(scope="module")
def spaces(tmp_path_factory) -> Path:
    """The four Spaces as they are pushed."""
    folder = tmp_path_factory.mktemp("spaces")
    for slug in SLUGS:
        write_metric_space(slug, folder / slug)
    return folder


@pytest.fixture(scope="module")
def from_folder(offline, spaces, tmp_path_factory) -> dict:
    return run(MEASURE + WAYS + PRINT, spaces, env=offline, cwd=tmp_path_factory.mktemp("elsewhere"))


def test_a_space_holds_what_the_package_measures_with(spaces):
    for slug in SLUGS:
        assert (spaces / slug / "metrics.py").read_bytes() == Path(metrics.__file__).read_bytes()


def test_a_folder_gives_the_numbers_of_the_package(from_folder):
    found = {name: value for name, value in from_folder.items() if name not in ("ways", "errors")}
    assert found == pytest.approx(expected(), abs=1e-12)


def test_trials_come_in_parts_by_other_ids_and_combined(from_folder):
    ways, eer, cost = from_folder["ways"], metrics.eer(BONAFIDE, SPOOF), metrics.min_dcf(BONAFIDE, SPOOF)
    assert ways["in parts"] == ways["other ids"] == pytest.approx(eer.eer, abs=1e-12)
    assert ways["combined"] == pytest.approx(
        {"eer": eer.eer, "eer_threshold": eer.threshold, "min_dcf": cost.cost, "min_dcf_threshold": cost.threshold}
    )


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("length", "ValueError: Mismatch in the number of predictions (2) and references (1)"),
        (
            "one class",
            "ValueError: there are no spoof trials: bona fide is class 0, the references hold 0; pass bonafide_",
        ),
        ("not finite", "ValueError: 1 of 1 spoof scores are not finite"),
        ("unlabelled", "ValueError: 1 of 3 references are missing or below 0"),
        ("no label", "ValueError: 1 of 3 references are missing or below 0"),
        ("empty", "ValueError: there are no bona fide trials"),
        ("after them", "{'eer': 0.0, 'threshold': 0.0}"),
    ],
)
def test_a_wrong_input_says_what_is_wrong(from_folder, case, text):
    assert from_folder["errors"][case].startswith(text)


def test_a_hub_gives_the_numbers_of_the_package(hub, spaces, tmp_path):
    push = """
import json, sys
from huggingface_hub import HfApi
for slug in ("eer", "min_dcf", "min_tdcf", "cllr"):
    HfApi().create_repo(f"alice/{slug}", repo_type="space", space_sdk="gradio")
    HfApi().upload_folder(repo_id=f"alice/{slug}", repo_type="space", folder_path=f"{sys.argv[1]}/{slug}")
print(json.dumps("pushed"))
"""
    run(push, spaces, env=hub.env(), cwd=tmp_path)
    (away := tmp_path / "away").mkdir()
    assert run(MEASURE + PRINT, "alice", env=hub.env(token=None), cwd=away) == pytest.approx(expected(), abs=1e-12)
    assert {"metrics.py", "trials.py", "app.py"} < hub.files("alice/eer", kind="space").keys()


# Serves each page from its folder as Spaces do, asks it over HTTP and prints what it says.
PAGES = """
import json, runpy, sys
from pathlib import Path
from gradio_client import Client, handle_file
bonafide, spoof = (" ".join(map(str, group)) for group in json.load(sys.stdin))
further = {"eer": ["asvspoof"], "min_dcf": [0.05, 1, 10], "min_tdcf": [0.05, 0.05, 0.4, "2019"], "cllr": []}
found = {}
for slug, options in further.items():
    sys.path[:0] = [str(Path(sys.argv[1], slug))]
    demo = runpy.run_path(str(Path(sys.argv[1], slug, "app.py")))["demo"]
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True)
    client = Client(url, verbose=False)
    def ask(api_name, *inputs):
        try:
            return client.predict(*inputs, *options, api_name=api_name)[:2]
        except Exception as error:
            return str(error)
    found[slug] = ask("/text", bonafide, spoof)
    if slug == "eer":
        found["files"] = ask("/files", handle_file("scores.txt"), handle_file("key.txt"))
        found["errors"] = [ask("/text", "1 x", "2"), ask("/text", "", "2"), ask("/text", "1 nan", "2"),
                           ask("/files", handle_file("key.txt"), handle_file("key.txt")),
                           ask("/files", handle_file("scores.txt"), handle_file("more.txt")),
                           ask("/files", handle_file("scores.txt"), handle_file("twice.txt"))]
    demo.close()
print(json.dumps(found))
"""


def test_each_page_answers_over_http(offline, spaces, tmp_path):
    (tmp_path / "scores.txt").write_text("a 1.5\nb 0.2\nc -1.0\nd 0.4\ne 9\n")
    key = "s1 a - - bonafide\ns1 b - - bonafide\ns2 c - A01 spoof\ns2 d - A02 spoof\n"
    (tmp_path / "key.txt").write_text(key)
    (tmp_path / "more.txt").write_text(f"{key}s2 f - A02 spoof\n")
    (tmp_path / "twice.txt").write_text(f"{key}s2 d - A02 spoof\n")
    found = run(PAGES, spaces, env=offline, cwd=tmp_path)
    wanted = expected()
    assert found["eer"][0] == f"# EER {100 * wanted['eer']:.2f} %"
    assert found["min_dcf"][0] == f"# minDCF {wanted['min_dcf']:.4f}"
    assert found["min_tdcf"][0] == f"# min t-DCF {wanted['min_tdcf 2019']:.4f}"
    assert found["cllr"][0] == f"# CLLR {wanted['cllr']:.4f} bits"
    assert found["eer"][1]["eer"] == pytest.approx(wanted["eer"])
    assert found["files"][1] == {
        "eer": 0.5,
        "threshold": 0.2,
        "bona fide trials": 2,
        "spoofs": 2,
        "scores that the key leaves out": 1,
    }
    texts = [
        "'x' among the bona fide scores",
        "needs both",
        "not finite",
        "entry 1 of the score file",
        "have no score",
        "d is in the key twice, as spoof and in entry 5 as spoof",
    ]
    for message, text in zip(found["errors"], texts, strict=True):
        assert text in message


@pytest.mark.parametrize("slug", SLUGS)
def test_the_card_is_a_spaces_and_its_example_true(spaces, slug):
    text = (spaces / slug / "README.md").read_text(encoding="utf-8")
    card = yaml.safe_load(text.split("---")[1])
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {card["colorFrom"], card["colorTo"]} <= colours
    assert (card["sdk"], card["app_file"]) == ("gradio", "app.py")
    assert tuple(map(int, card["sdk_version"].split("."))) >= (6, 7, 0)
    assert {"evaluate", "metric"} <= set(card["tags"])
    assert len(card["short_description"]) <= 60
    assert "higher means more likely genuine" in text

    scores = np.array(json.loads(re.search(r"predictions=(\[.*?\])", text)[1]))
    labels = np.array(json.loads(re.search(r"references=(\[.*?\])", text)[1]))
    trials = scores[labels == 0], scores[labels == 1]
    more = {"min_tdcf": (metrics.ASVSPOOF5_ASV,)}.get(slug, ())
    found = getattr(metrics, slug)(*trials, *more)
    printed = re.search(r"^# (\{.*\})$", text, re.MULTILINE)[1]
    assert list(json.loads(printed.replace("'", '"')).values()) == pytest.approx(
        np.atleast_1d(found).tolist(), abs=5e-5
    )


def test_an_unknown_metric_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no metric 'f1': pass one of eer, min_dcf, min_tdcf, cllr"):
        write_metric_space("f1", tmp_path)
