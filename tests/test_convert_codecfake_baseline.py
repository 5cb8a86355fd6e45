"""The baselines of CodecFake+ keep every number, and their branches tell the tasks."""

import json

import pytest
import torch
from conftest import lively, tiny_wav2vec2
from published_layout import fairseq_state, published_graph_name, published_name
from transformers import AutoModelForAudioClassification, Wav2Vec2Config

from spooftrace.cli import main
from spooftrace.modeling import AasistConfig, AasistForAudioClassification
from spooftrace.modeling.convert_codecfake_baseline import convert_codecfake_baseline, find_tasks, rename_key
from spooftrace.modeling.convert_common import ConversionError


BRANCHES = {
    "bin": "binary_branch",
    "vq": "multiclass_branch_qs",
    "aux": "multiclass_branch_as",
    "dec": "multiclass_branch_ds",
}
PUBLISHED = {
    "S_BIN": ["bin"],
    "S_DEC": ["dec"],
    "D_VQ": ["bin", "vq"],
    "D_AUX": ["bin", "aux"],
    "M1": ["bin", "vq", "aux", "dec"],
    "M2": ["vq", "aux", "dec"],
}


def baseline_name(ours: str, tasks: list[str]) -> str:
    """The published name of one of our tensors behind wav2vec 2.0."""
    parts = ours.removeprefix("aasist.").split(".")
    match parts:
        case ["classifier", name]:
            return f"{BRANCHES[tasks[0]]}.out_layer.{name}"
        case ["task_classifiers", task, name]:
            return f"{BRANCHES[task]}.out_layer.{name}"
        case ["task_graphs", task, *rest]:
            return f"{BRANCHES[task]}.{published_graph_name('.'.join(rest))}"
        case ["backend", first, *rest] if first != "nodes":
            return f"{BRANCHES[tasks[0]]}.{published_graph_name('.'.join([first, *rest]))}"
    return published_name(ours)


def published_state(model: AasistForAudioClassification) -> dict[str, torch.Tensor]:
    """The state dict that the reference would have saved: its names, and in the binary branch spoof at index 0."""
    own = {name: value for name, value in model.state_dict().items() if ".wav2vec2." not in name}
    state = {baseline_name(name, model.config.tasks): value.clone() for name, value in own.items()}
    swapped = {name: value.flip(0) for name, value in state.items() if name.startswith("binary_branch.out_layer")}
    return state | swapped | fairseq_state(model.wav2vec2, "ssl_model.model.")


@pytest.fixture
def encoder_config(tmp_path) -> str:
    Wav2Vec2Config(**tiny_wav2vec2(layerdrop=0.1)).save_pretrained(tmp_path / "encoder")
    return str(tmp_path / "encoder" / "config.json")


def build(tasks: list[str]) -> AasistForAudioClassification:
    torch.manual_seed(0)
    config = AasistConfig(frontend="wav2vec2", wav2vec2_config=tiny_wav2vec2(), tasks=tasks)
    return lively(AasistForAudioClassification(config))


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_number_is_kept_and_bona_fide_comes_first(name, encoder_config, tmp_path):
    original = build(PUBLISHED[name])
    torch.save(published_state(original), tmp_path / "model.pth")
    model, report = convert_codecfake_baseline(tmp_path / "model.pth", encoder_config)
    assert model.config.tasks == PUBLISHED[name] and model.config.wav2vec2_config.layerdrop == 0
    own = original.state_dict()
    assert set(report.mapped.values()) == set(own) == set(model.state_dict())
    for tensor, value in own.items():
        assert torch.equal(model.state_dict()[tensor], value), tensor
    assert {key.split(".")[2] for key in report.dropped} == {"quantizer", "project_q", "final_proj"}
    assert any("Swapped" in note for note in report.notes) == ("bin" in PUBLISHED[name])


def test_logits_are_those_of_the_original(encoder_config, tmp_path):
    original = build(PUBLISHED["M1"])
    torch.save({f"module.{name}": value for name, value in published_state(original).items()}, tmp_path / "model.pth")
    model, _ = convert_codecfake_baseline(tmp_path / "model.pth", encoder_config)
    waveforms = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for task, logits in original(waveforms).task_logits.items():
            torch.testing.assert_close(model(waveforms).task_logits[task], logits)


def test_tasks_come_in_our_order():
    assert find_tasks(["multiclass_branch_ds.x", "LL.weight", "multiclass_branch_qs.y", "binary_branch.z"]) == [
        "bin",
        "vq",
        "dec",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"multiclass_branch_qs.gate": torch.ones(1)}, r"unknown tensors: .*_qs\.gate"),
        (lambda state: state | {"pos_S": torch.ones(1)}, "unknown tensors: pos_S"),
        (lambda state: state | {"out_layer.bias": torch.ones(2)}, "unknown tensors: out_layer.bias"),
        (lambda state: without(state, "multiclass_branch_qs.pos_S"), r"missing aasist\.task_graphs\.vq\.position"),
        (
            lambda state: without(state, "multiclass_branch_qs.out_layer.bias"),
            "'multiclass_branch_qs' has no classifier",
        ),
        (
            lambda state: state | {"multiclass_branch_qs.out_layer.bias": torch.ones(3)},
            "has 3 classes; the task 'vq' has the 4 classes bonafide, mvq, svq, sq",
        ),
        (lambda state: {"LL.weight": torch.ones(1)}, "none of the branches binary_branch"),
    ],
)
def test_what_does_not_fit_is_named(change, message, encoder_config, tmp_path):
    torch.save(change(published_state(build(["bin", "vq"]))), tmp_path / "model.pth")
    with pytest.raises(ConversionError, match=message):
        convert_codecfake_baseline(tmp_path / "model.pth", encoder_config)


def without(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if key != name}


def test_command_writes_a_folder_that_loads(encoder_config, tmp_path, capsys):
    original = build(["bin", "dec"])
    torch.save(published_state(original), tmp_path / "D_DEC.pth")
    command = ["convert", "codecfake-baseline", str(tmp_path / "D_DEC.pth"), str(tmp_path / "out")]
    assert main([*command, "--wav2vec2-config", encoder_config]) == 0
    assert "bin, dec" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "conversion_report.json").read_text())
    assert report["num_parameters"] == sum(parameter.numel() for parameter in original.parameters())
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path / "out").eval()
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in original.state_dict().items())


def test_all_keys_of_the_real_back_end_are_accounted_for(golden_dir):
    shapes = {name: shape for name, shape in golden_keys(golden_dir) if not name.startswith(("SSL", "MAE", "whisper"))}
    own_part = {name: shape for name, shape in shapes.items() if "transformer" not in name}
    with torch.device("meta"):
        expected = AasistForAudioClassification(AasistConfig(frontend="wav2vec2", tasks=["aux"])).state_dict()
    renamed = {}
    for name, shape in own_part.items():
        ours, reason = rename_key(name.replace("multiclass_branch.", "multiclass_branch_as."), ["aux"])
        assert ours is not None and reason is None, name
        renamed[ours] = (128, 1024) if name == "LL.weight" else shape
    behind = {name: tuple(value.shape) for name, value in expected.items() if ".wav2vec2." not in name}
    assert renamed == behind


def golden_keys(golden_dir) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the reference's SASTNet, whose back-end is that of the baselines behind a narrower input."""
    lines = (golden_dir / "sastnet_aux.keys.txt").read_text().splitlines()
    fields = (line.split("\t") for line in lines)
    return [(name, tuple(int(size) for size in shape.strip("()").split(",") if size)) for name, shape, _ in fields]
