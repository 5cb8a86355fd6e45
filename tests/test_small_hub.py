"""Models and data sets go to the tests' own Hub and come back, each in a process and an `HF_HOME` of its own."""

import json
from pathlib import Path

import pytest
import torch
import warm_python
from conftest import lively, tiny_config
from small_hub import READ

from spooftrace import Detector
from spooftrace.modeling import AasistFeatureExtractor, AasistForAudioClassification


CLIP = Path(__file__).resolve().parent.parent / "examples" / "synthetic_speech.flac"

UPLOAD = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo("alice/x", exist_ok=True)
print(HfApi().upload_folder(repo_id="alice/x", folder_path=sys.argv[1]).oid)
"""


def run(hub, program: str, *arguments: str, code: int = 0, **options) -> str:
    """Standard output of a fresh process that has only the Hub to go by."""
    done = warm_python.run("-c", program, *arguments, env=hub.env(**options))
    assert done.returncode == code, done.stderr
    return done.stdout.strip()


def save_detector(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    lively(AasistForAudioClassification(tiny_config("sinc"))).save_pretrained(folder)
    AasistFeatureExtractor().save_pretrained(folder)
    return folder


def local_score(folder: Path) -> float:
    return Detector.from_pretrained(folder, device="cpu")(CLIP).score


def test_pushed_detectors_score_like_their_folders_and_a_pin_outlives_the_next_push(hub, tmp_path):
    folders = [save_detector(tmp_path / str(seed), seed) for seed in (0, 1)]
    push = """
import sys
from huggingface_hub import HfApi
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
import spooftrace.modeling
for kind in (AutoModelForAudioClassification, AutoFeatureExtractor):
    kind.from_pretrained(sys.argv[1]).push_to_hub("alice/x")
print(HfApi().model_info("alice/x").sha)
print(HfApi().upload_folder(repo_id="alice/x", folder_path=sys.argv[2]).oid)
"""
    pin, head = run(hub, push, *folders).splitlines()
    assert head == hub.head("alice/x") != pin
    detect = """
import sys
from spooftrace.cli import main
for revision in sys.argv[2:]:
    main(["detect", "--json", "--device", "cpu", "--model", "alice/x", "--revision", revision, sys.argv[1]])
    print("---")
"""
    answers = run(hub, detect, CLIP, pin, "main", token=None).split("---")
    found = [json.loads(answer)[0] for answer in answers[:2]]
    assert [clip["score"] for clip in found] == pytest.approx([local_score(folder) for folder in folders], abs=1e-5)
    assert found[0]["score"] != pytest.approx(found[1]["score"], abs=1e-3)
    assert found[0]["model"]["name"] == "alice/x"


def test_a_pushed_dataset_loads_and_streams(hub):
    push = """
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
features = Features({"utterance_id": Value("string"), "label": ClassLabel(names=["bonafide", "spoof"])})
rows = {"train": [("a", 0), ("b", 1), ("c", None)], "test": [("d", 1)]}
splits = {name: Dataset.from_dict({"utterance_id": [i for i, _ in part], "label": [l for _, l in part]}, features=features)
          for name, part in rows.items()}
DatasetDict(splits).push_to_hub("alice/data", private=True)
"""
    run(hub, push)
    read = """
import json
from datasets import load_dataset
loaded, streamed = load_dataset("alice/data"), load_dataset("alice/data", streaming=True)
for splits in (loaded, streamed):
    print(json.dumps({name: [[row["utterance_id"], row["label"]] for row in part] for name, part in splits.items()}))
print(loaded["train"].features["label"].names)
"""
    *rows, names = run(hub, read).splitlines()
    expected = {"train": [["a", 0], ["b", 1], ["c", None]], "test": [["d", 1]]}
    assert [json.loads(line) for line in rows] == [expected, expected]
    assert names == "['bonafide', 'spoof']"
    assert any(request.range for request in hub.requests), "streaming reads ranges"


ERRORS = """
import sys
from huggingface_hub import HfApi
from spooftrace.cli import explain
try:
    HfApi().{call}
except Exception as error:
    print(type(error).__name__, explain(error))
"""


@pytest.mark.parametrize(
    ("call", "token", "expected"),
    [
        ("upload_file(path_or_fileobj=b'x', path_in_repo='f', repo_id='alice/x')", READ, "403"),
        ("upload_file(path_or_fileobj=b'x', path_in_repo='f', repo_id='alice/x')", "hf_bob_write", "403"),
        ("model_info('alice/x', revision='nope')", None, "RevisionNotFoundError"),
        ("hf_hub_download('alice/x', 'nope')", None, "RemoteEntryNotFoundError"),
        ("model_info('alice/hidden')", None, "RepositoryNotFoundError"),
        ("model_info('alice/hidden')", "hf_bob_write", "RepositoryNotFoundError"),
        ("model_info('alice/x')", "hf_wrong", "401"),
    ],
)
def test_refusals_reach_the_client_as_its_own_errors(hub, call, token, expected):
    hub.seed("alice/x", {"README.md": b"# x"})
    hub.seed("alice/hidden", {"README.md": b"# hidden"}, private=True)
    answer = run(hub, ERRORS.format(call=call), token=token)
    assert expected in answer
    assert answer.count("\n") == 0, answer
    assert "f" not in hub.files("alice/x")


def test_a_failed_upload_is_tried_again_and_a_lost_answer_is_not(hub, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"0" * 1000)
    hub.fail(r"^PUT /_lfs/", status=503)
    first = run(hub, UPLOAD, tmp_path)
    assert [request.status for request in hub.requests if request.method == "PUT"] == [503, 200]
    assert hub.files("alice/x")["weights.safetensors"] == b"0" * 1000

    (tmp_path / "note.txt").write_text("second")
    hub.cut(r"/commit/main", applied=False)
    run(hub, UPLOAD, tmp_path, code=1)
    assert hub.head("alice/x") == first
    hub.cut(r"/commit/main")
    run(hub, UPLOAD, tmp_path, code=1)
    assert hub.files("alice/x")["note.txt"] == b"second"


def test_a_cut_download_arrives_whole(hub):
    content = bytes(range(256)) * 50_000
    hub.seed("alice/x", {"weights.safetensors": content})
    hub.cut(r"^GET /alice/x/resolve/", after=11_000_000)
    download = "from huggingface_hub import hf_hub_download; print(hf_hub_download('alice/x', 'weights.safetensors'))"
    assert Path(run(hub, download)).read_bytes() == content
    assert [request.range for request in hub.requests if request.status == 206] == [f"bytes={10 * 1024 * 1024}-"]


def test_a_pull_request_leaves_the_branch_alone(hub):
    head = hub.seed("alice/x", {"README.md": b"old"})
    program = """
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
done = api.upload_file(path_or_fileobj=b"new", path_in_repo="README.md", repo_id="alice/x", create_pr=True)
print([(found.num, found.is_pull_request) for found in api.get_repo_discussions("alice/x")], done.pr_num)
print(open(hf_hub_download("alice/x", "README.md", revision=done.pr_revision)).read())
"""
    assert run(hub, program).splitlines() == ["[(1, True)] 1", "new"]
    assert hub.head("alice/x") == head


def test_a_space_needs_a_valid_card(hub, tmp_path):
    (tmp_path / "README.md").write_text("---\ntitle: x\nsdk: gradio\ncolorFrom: mauve\n---\n")
    program = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo("alice/space", repo_type="space", space_sdk="gradio")
HfApi().upload_folder(repo_id="alice/space", folder_path=sys.argv[1], repo_type="space")
"""
    run(hub, program, tmp_path, code=1)
    assert "README.md" not in hub.files("alice/space", kind="space")
