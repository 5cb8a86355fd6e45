"""Published AASIST checkpoints -> safetensors in our naming, with every key accounted for.

Two families: the stand-alone AASIST and AASIST-L (`clovaai/aasist`), and SSL_Anti-spoofing's wav2vec 2.0 + AASIST, whose
front end carries fairseq's names. Pickles are read with `weights_only=True` and nothing else.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import Wav2Vec2Config

from .configuration_aasist import AasistConfig
from .feature_extraction_aasist import AasistFeatureExtractor
from .modeling_aasist import AasistForAudioClassification


REPORT_NAME = "conversion_report.json"
MAX_LISTED = 12

# Reference name -> ours. A rule applies to whole dotted parts; the first one that matches wins.
_GRAPH_LAYER = {
    "att_weight": "pair_weight",
    "att_proj": "pair_projection",
    "proj_with_att": "attended_projection",
    "proj_without_att": "own_projection",
    "bn": "norm",
}
_HETEROGENEOUS_LAYER = {
    **_GRAPH_LAYER,
    "proj_type1": "temporal_projection",
    "proj_type2": "spectral_projection",
    "att_projM": "master_pair_projection",
    "att_weight11": "temporal_pair_weight",
    "att_weight22": "spectral_pair_weight",
    "att_weight12": "cross_pair_weight",
    "att_weightM": "master_pair_weight",
    "proj_with_attM": "master_attended_projection",
    "proj_without_attM": "master_own_projection",
}
_BLOCK = {
    "bn1": "unused_norm",
    "conv1": "conv1",
    "bn2": "norm",
    "conv2": "conv2",
    "conv_downsample": "shortcut",
}
_MODULES = {
    "first_bn": "encoder.input_norm",
    "first_bn1": "backend.nodes.input_norm",
    "attention.0": "backend.nodes.expand",
    "attention.2": "backend.nodes.norm",
    "attention.3": "backend.nodes.contract",
    "pos_S": "backend.position",
    "master1": "backend.branch1.master",
    "master2": "backend.branch2.master",
    "pool_S.proj": "backend.spectral_pool.score",
    "pool_T.proj": "backend.temporal_pool.score",
    "pool_hS1.proj": "backend.branch1.spectral_pool.score",
    "pool_hT1.proj": "backend.branch1.temporal_pool.score",
    "pool_hS2.proj": "backend.branch2.spectral_pool.score",
    "pool_hT2.proj": "backend.branch2.temporal_pool.score",
    "LL": "frontend.projection",
}

_FAIRSEQ_PREFIX = "ssl_model.model."
_WAV2VEC2_PREFIX = "aasist.frontend.wav2vec2."
_FAIRSEQ_DROPPED = {
    "quantizer": "codebook of wav2vec 2.0's pretraining objective; the encoder's output does not depend on it",
    "project_q": "projection of the pretraining targets; the encoder's output does not depend on it",
    "final_proj": "projection of the pretraining predictions; the encoder's output does not depend on it",
}
_FAIRSEQ_RULES = [
    (r"mask_emb", r"masked_spec_embed"),
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(weight|bias)", r"feature_extractor.conv_layers.\1.conv.\2"),
    # fairseq wraps the layer norm of each convolution in a Sequential between two transpositions, hence "2.1".
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.1\.(weight|bias)", r"feature_extractor.conv_layers.\1.layer_norm.\2"),
    # The base architecture has one group norm instead, after the first convolution.
    (r"feature_extractor\.conv_layers\.0\.2\.(weight|bias)", r"feature_extractor.conv_layers.0.layer_norm.\1"),
    (r"layer_norm\.(weight|bias)", r"feature_projection.layer_norm.\1"),
    (r"post_extract_proj\.(weight|bias)", r"feature_projection.projection.\1"),
    (r"encoder\.pos_conv\.0\.bias", r"encoder.pos_conv_embed.conv.bias"),
    (
        r"encoder\.pos_conv\.0\.(?:weight_g|parametrizations\.weight\.original0)",
        r"encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    ),
    (
        r"encoder\.pos_conv\.0\.(?:weight_v|parametrizations\.weight\.original1)",
        r"encoder.pos_conv_embed.conv.parametrizations.weight.original1",
    ),
    (r"encoder\.layers\.(\d+)\.self_attn\.([qkv]|out)_proj\.(weight|bias)", r"encoder.layers.\1.attention.\2_proj.\3"),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(weight|bias)", r"encoder.layers.\1.layer_norm.\2"),
    (r"encoder\.layers\.(\d+)\.fc1\.(weight|bias)", r"encoder.layers.\1.feed_forward.intermediate_dense.\2"),
    (r"encoder\.layers\.(\d+)\.fc2\.(weight|bias)", r"encoder.layers.\1.feed_forward.output_dense.\2"),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.(weight|bias)", r"encoder.layers.\1.final_layer_norm.\2"),
    (r"encoder\.layer_norm\.(weight|bias)", r"encoder.layer_norm.\1"),
]


class ConversionError(ValueError):
    """A checkpoint that cannot be converted without losing or guessing something."""


@dataclass
class ConversionReport:
    """What became of every tensor of a checkpoint."""

    source: str
    model: str
    num_parameters: int = 0
    mapped: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def save(self, folder: str | os.PathLike) -> Path:
        path = Path(folder) / REPORT_NAME
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        return path


def read_checkpoint(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """
    The tensors of a `.safetensors` file, or of a pickle that holds nothing but tensors.

    Raises:
        `ConversionError`: if the file is missing, is no checkpoint, or holds anything else than a dict of tensors; a
            pickle that asks for code is refused without running any.
    """
    path = Path(path)
    if not path.is_file():
        raise ConversionError(f"{str(path)!r} is not a file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConversionError(
            f"{str(path)!r} is no checkpoint of plain tensors ({reason}). It may be damaged, or a pickle that runs code "
            "when it is loaded; such files are never loaded here."
        ) from error
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    named = isinstance(state, Mapping) and all(isinstance(name, str) for name in state)
    if not named or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConversionError(f"{str(path)!r} does not hold a dict of named tensors.")
    return dict(state)


def rename_backend_key(key: str) -> str | None:
    """Our name for a tensor of the reference's back-end, or `None` for a stranger."""
    if key in ("out_layer.weight", "out_layer.bias"):
        return key.replace("out_layer", "classifier")
    if match := re.fullmatch(r"encoder\.(\d+)\.0\.(\w+)\.(\w+)", key):
        index, module, name = match.groups()
        return f"aasist.encoder.blocks.{index}.{_BLOCK[module]}.{name}" if module in _BLOCK else None
    if match := re.fullmatch(r"GAT_layer_([ST])\.(\w+)(\.\w+)?", key):
        kind, module, name = match.groups()
        layer = {"S": "spectral_layer", "T": "temporal_layer"}[kind]
        return f"aasist.backend.{layer}.{_GRAPH_LAYER[module]}{name or ''}" if module in _GRAPH_LAYER else None
    if match := re.fullmatch(r"HtrgGAT_layer_ST([12])([12])\.(\w+)(\.\w+)?", key):
        branch, layer, module, name = match.groups()
        if module not in _HETEROGENEOUS_LAYER:
            return None
        return f"aasist.backend.branch{branch}.layer{layer}.{_HETEROGENEOUS_LAYER[module]}{name or ''}"
    for reference, ours in _MODULES.items():
        if key == reference or key.startswith(reference + "."):
            return f"aasist.{ours}{key[len(reference) :]}"
    return None


def rename_fairseq_key(key: str) -> str | None:
    """transformers' name, within `Wav2Vec2Model`, for a tensor of fairseq's wav2vec 2.0, or `None` for a stranger."""
    for pattern, replacement in _FAIRSEQ_RULES:
        if match := re.fullmatch(pattern, key):
            return match.expand(replacement)
    return None


def _rename(key: str) -> tuple[str | None, str | None]:
    """Our name for a tensor, or the reason to drop it, or neither for a stranger."""
    if not key.startswith(_FAIRSEQ_PREFIX):
        return rename_backend_key(key), None
    fairseq_key = key.removeprefix(_FAIRSEQ_PREFIX)
    renamed = rename_fairseq_key(fairseq_key)
    return renamed and f"{_WAV2VEC2_PREFIX}{renamed}", _FAIRSEQ_DROPPED.get(fairseq_key.split(".")[0])


def rename_state_dict(state: Mapping[str, torch.Tensor], report: ConversionReport) -> dict[str, torch.Tensor]:
    """
    All tensors under our names; `report` gains what was mapped and dropped.

    Raises:
        `ConversionError`: listing every key that neither has a place in the model nor a reason to be dropped.
    """
    if state and all(key.startswith("module.") for key in state):
        report.notes.append("Removed the prefix 'module.' that DataParallel adds to every key.")
        state = {key.removeprefix("module."): value for key, value in state.items()}
    renamed, strangers = {}, []
    for key, value in state.items():
        ours, reason_to_drop = _rename(key)
        if ours in renamed:
            raise ConversionError(f"Two tensors claim the name {ours!r}; the second is {key!r}.")
        if ours is not None:
            renamed[ours] = value
            report.mapped[key] = ours
        elif reason_to_drop is not None:
            report.dropped[key] = reason_to_drop
        else:
            strangers.append(key)
    if strangers:
        raise ConversionError(f"This is another architecture; unknown tensors: {listed(strangers)}.")
    return renamed


def listed(names: list[str]) -> str:
    """The names, or their number and the first few."""
    shown = ", ".join(names[:MAX_LISTED]) or "none"
    return shown if len(names) <= MAX_LISTED else f"{len(names)}, among them {shown}"


def _bonafide_first(state: dict[str, torch.Tensor], report: ConversionReport):
    for name in ("classifier.weight", "classifier.bias"):
        if name not in state or len(state[name]) != 2:
            raise ConversionError("The checkpoint has no 'out_layer' with two classes.")
        state[name] = state[name].flip(0)
    report.notes.append("Swapped the classes: the checkpoint has bona fide at index 1, ours has it at index 0.")


def load_exactly(model: torch.nn.Module, state: Mapping[str, torch.Tensor]):
    """
    Loads `state` into `model`.

    Raises:
        `ConversionError`: listing the tensors that are missing, superfluous or of another shape.
    """
    own = {name: value.shape for name, value in model.state_dict().items()}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{name}: {tuple(state[name].shape)} instead of {tuple(own[name])}"
        for name in own.keys() & state.keys()
        if state[name].shape != own[name]
    ]
    if missing or unexpected or shapes:
        raise ConversionError(
            f"The checkpoint does not fit {type(model).__name__}: missing {listed(missing)}; unexpected "
            f"{listed(unexpected)}; of another shape {listed(sorted(shapes))}."
        )
    model.load_state_dict(state)


def infer_standalone_config(state: Mapping[str, torch.Tensor], pool_ratios: list[float] | None = None) -> AasistConfig:
    """
    The configuration of a stand-alone checkpoint in our naming, read off its shapes.

    Pooling ratios have no tensors: they are known for the two published models, and an argument for any other.
    """
    blocks = {int(key.split(".")[3]) for key in state if key.startswith("aasist.encoder.blocks.")}
    channels = [len(state[f"aasist.encoder.blocks.{index}.conv2.bias"]) for index in sorted(blocks)]
    graph_dims = [
        state["aasist.backend.spectral_layer.own_projection.bias"].shape[0],
        state["aasist.backend.branch1.layer1.own_projection.bias"].shape[0],
    ]
    published = {(64, 32): [0.5, 0.7, 0.5], (24, 32): [0.4, 0.5, 0.7]}
    pool_ratios = pool_ratios or published.get(tuple(graph_dims))
    if pool_ratios is None:
        raise ConversionError(f"Neither AASIST nor AASIST-L (graph sizes {graph_dims}): give its pooling ratios.")
    # `num_filters` cannot be told apart within the 3 x 3 pooling either; all published models have 70.
    return AasistConfig(encoder_channels=channels, graph_dims=graph_dims, pool_ratios=pool_ratios)


def convert_standalone(
    checkpoint: str | os.PathLike, pool_ratios: list[float] | None = None
) -> tuple[AasistForAudioClassification, ConversionReport]:
    """
    Converts a checkpoint of `clovaai/aasist`.

    Args:
        checkpoint: A `.pth` file of plain tensors or a `.safetensors` file.
        pool_ratios: The three pooling ratios, needed only if the model is neither AASIST nor AASIST-L.

    Raises:
        `ConversionError`: if any tensor is missing, unknown or of another shape.
    """
    report = ConversionReport(source=os.path.basename(checkpoint), model="AASIST (stand-alone)")
    state = rename_state_dict(read_checkpoint(checkpoint), report)
    _bonafide_first(state, report)
    if "aasist.backend.spectral_layer.own_projection.bias" not in state or not any(".blocks." in key for key in state):
        raise ConversionError("The checkpoint lacks the encoder or the graph layers of AASIST.")
    model = AasistForAudioClassification(infer_standalone_config(state, pool_ratios))
    return _finish(model, state, report)


def convert_ssl_antispoofing(
    checkpoint: str | os.PathLike, wav2vec2_config: str | os.PathLike | None = None
) -> tuple[AasistForAudioClassification, ConversionReport]:
    """
    Converts a checkpoint of SSL_Anti-spoofing (wav2vec 2.0 under fairseq's names, then AASIST).

    Args:
        checkpoint: A `.pth` file of plain tensors or a `.safetensors` file.
        wav2vec2_config:
            A `config.json` (or folder, or Hub name) of the wav2vec 2.0 encoder, whose attention heads no tensor tells;
            XLS-R 300M's by default.

    Raises:
        `ConversionError`: if any tensor is missing, unknown or of another shape.
    """
    report = ConversionReport(source=os.path.basename(checkpoint), model="W2V2-AASIST (SSL_Anti-spoofing)")
    state = rename_state_dict(read_checkpoint(checkpoint), report)
    _bonafide_first(state, report)
    encoder = None
    if wav2vec2_config is not None:
        encoder = Wav2Vec2Config.from_pretrained(wav2vec2_config).to_dict()
    config = AasistConfig(frontend="wav2vec2", wav2vec2_config=encoder)
    report.notes.append("The front end takes the raw waveform: do_normalize is False, as in the reference.")
    return _finish(AasistForAudioClassification(config), state, report)


def _finish(
    model: AasistForAudioClassification, state: Mapping[str, torch.Tensor], report: ConversionReport
) -> tuple[AasistForAudioClassification, ConversionReport]:
    load_exactly(model, state)
    report.num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return model.eval(), report


@contextmanager
def new_folder(folder: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """
    An empty folder to write to, which takes the place of `folder` when all is done: whole or not at all.

    Raises:
        `ConversionError`: if the folder exists and is not empty, unless `overwrite`.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ConversionError(f"{str(folder)!r} is a file; name a folder to write to.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ConversionError(f"{str(folder)!r} is not empty: choose another folder or ask to overwrite it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        staged = Path(temporary) / folder.name
        staged.mkdir()
        yield staged
        if folder.is_dir():
            shutil.rmtree(folder)
        staged.rename(folder)


def save_converted(
    model: AasistForAudioClassification, report: ConversionReport, folder: str | os.PathLike, overwrite: bool = False
):
    """
    Writes model, code, feature extractor and report to `folder`, ready to be loaded or pushed.

    Raises:
        `ConversionError`: if the folder exists and is not empty, unless `overwrite`.
    """
    with new_folder(folder, overwrite) as staged:
        model.save_pretrained(staged)
        AasistFeatureExtractor(sampling_rate=model.config.sampling_rate).save_pretrained(staged)
        report.save(staged)


__all__ = [
    "ConversionError",
    "ConversionReport",
    "convert_ssl_antispoofing",
    "convert_standalone",
    "save_converted",
]
