"""The public SASTNet, executed from the user's own checkout: without fairseq, torchvision, downloads or random order.

Nothing of the reference is copied here. Its wav2vec 2.0 is transformers' one of the same size, its weights are random, and
its tokens keep their natural order, which its inference shuffles.
"""

import importlib
import importlib.abc
import importlib.machinery
import io
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchaudio  # noqa: F401 -- transformers looks for it before the stand-ins below are in place
from torch import nn
from transformers import Wav2Vec2Model, WhisperConfig, WhisperFeatureExtractor, WhisperModel

from spooftrace.modeling.configuration_sastnet import SASTNetConfig


ABSENT = ("fairseq", "torchvision")  # imported by the reference, needed by nothing that runs here
TASK_NAMES = {"bin": "Bin", "vq": "VQ", "aux": "AUX", "dec": "DEC"}


class _AnythingType(type):
    """A class whose attributes are classes of their own."""

    def __getattr__(cls, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnythingType(name, (), {})


class _AnythingModule(types.ModuleType):
    """A module that has whatever is imported from it."""

    __path__ = []

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnythingType(name, (), {})


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an empty module for everything in `ABSENT`."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return _AnythingModule(spec.name)

    def exec_module(self, module):
        pass


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Within it, `ABSENT` can be imported; afterwards they are as absent as before."""
    finder = _StandIns()
    present = set(sys.modules)
    sys.meta_path.insert(0, finder)
    yield
    sys.meta_path.remove(finder)
    for name in set(sys.modules) - present:
        if name.split(".")[0] in ABSENT:
            del sys.modules[name]


def import_sastnet(folder: str) -> types.ModuleType:
    """
    `model_SAST_NET.py` of a checkout, with its AudioMAE and the timm beside it.

    Raises:
        `SystemExit`: if the checkout has no such file.
    """
    root = Path(folder) / "SAST_Net"
    if not (root / "model_SAST_NET.py").is_file():
        raise SystemExit(f"{folder} has no SAST_Net/model_SAST_NET.py: give the root of a checkout of the reference.")
    sys.path[:0] = [str(root), str(root / "AudioMAE" / "pytorch-image-models")]
    np.float = float  # numpy dropped the name after the release that the reference was written for
    with _stand_ins(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("model_SAST_NET")


class _Wav2Vec2(nn.Module):
    """In place of the reference's fairseq model; `config` is that of transformers."""

    def __init__(self, device, config):
        super().__init__()
        self.model = Wav2Vec2Model(config)

    def extract_feat(self, input_values: torch.Tensor) -> torch.Tensor:
        return self.model(input_values).last_hidden_state


def _random_whisper(config: WhisperConfig) -> dict[str, types.SimpleNamespace]:
    """The two names that the reference imports from transformers, which give random weights instead of a download."""
    decoder = {  # which the reference carries along; as large as the encoder in all Whisper models but the latest
        "decoder_layers": config.encoder_layers,
        "decoder_attention_heads": config.encoder_attention_heads,
        "decoder_ffn_dim": config.encoder_ffn_dim,
    }
    config = WhisperConfig.from_dict(config.to_dict() | decoder)
    return {
        "WhisperFeatureExtractor": types.SimpleNamespace(
            from_pretrained=lambda _: WhisperFeatureExtractor(feature_size=config.num_mel_bins)
        ),
        "WhisperModel": types.SimpleNamespace(from_pretrained=lambda _: WhisperModel(config)),
    }


def _autoencoder(module: types.ModuleType, config: SASTNetConfig, NUM_DECODER: int, mask_2d: bool, **_) -> nn.Module:
    """The reference's AudioMAE in the sizes of `config`."""
    return module.AudioMAE(
        in_chans=1,
        patch_size=config.patch_size,
        stride=config.patch_size,
        img_size=(config.num_frames(config.window_samples), config.feature_width),
        NUM_DECODER=NUM_DECODER,
        embed_dim=config.mae_hidden_size,
        depth=config.mae_num_layers,
        num_heads=config.mae_num_heads,
        decoder_embed_dim=config.decoder_hidden_size,
        decoder_depth=config.decoder_num_layers,
        decoder_num_heads=config.decoder_num_heads,
        mlp_ratio=config.mae_intermediate_size / config.mae_hidden_size,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        mask_2d=mask_2d,
    )


def _keep_all(tokens: torch.Tensor, mask_ratio: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """In place of a mask of nothing in random order: tokens, no mask, natural order."""
    batch, count, _ = tokens.shape
    return tokens, torch.zeros(batch, count), torch.arange(count).expand(batch, -1)


def reference_model(folder: str, config: SASTNetConfig) -> nn.Module:
    """The reference's SAST_Net in the sizes of `config`, with the weights that it starts from, in evaluation mode."""
    module = import_sastnet(folder)
    mae = sys.modules["model_MAE"]
    mae.AudioMAE.load_pretrain = lambda self, path: None
    module.mae_base = partial(_autoencoder, mae, config)
    module.SSL_Model = partial(_Wav2Vec2, config=config.wav2vec2_config)
    if config.use_semantics:
        vars(module).update(_random_whisper(config.whisper_config))
    transformer = module.TransformerEncoder
    module.TransformerEncoder = lambda embed_dim, num_heads, layers, **options: transformer(
        config.mae_hidden_size, config.fusion_num_heads, config.fusion_num_layers, **options
    )
    with redirect_stdout(io.StringIO()):  # it reports each of its parts
        model = module.SAST_Net(
            args=None,
            device="cpu",
            task=TASK_NAMES[config.task],
            num_decoder=config.num_decoders,
            use_SSL_feat=config.frontend == "wav2vec2",
            mask_2D=config.mask_mode == "2d",
            use_semantic=config.use_semantics,
        )
    module.TransformerEncoder = transformer
    if config.frontend == "wav2vec2":
        model.SSL_proj = nn.Linear(config.wav2vec2_config.hidden_size, config.feature_size)
    model.LL = nn.Linear(config.mae_hidden_size, config.num_filters)
    model.MAE.encoder.random_masking = _keep_all
    return model.eval()


def reference_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Its tensors as its checkpoints name them, but for wav2vec 2.0, which keeps transformers' names."""
    return {name: value for name, value in model.state_dict().items() if not name.endswith("_float_tensor")}
