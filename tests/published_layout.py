"""Names of our tensors in the published checkpoints, written down independently of the converters."""

import re

import torch
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from spooftrace.modeling import SASTNetConfig, SASTNetForAudioClassification


LAYERS = {
    "temporal_projection": "proj_type1",
    "spectral_projection": "proj_type2",
    "pair_projection": "att_proj",
    "temporal_pair_weight": "att_weight11",
    "spectral_pair_weight": "att_weight22",
    "cross_pair_weight": "att_weight12",
    "pair_weight": "att_weight",
    "attended_projection": "proj_with_att",
    "own_projection": "proj_without_att",
    "master_pair_projection": "att_projM",
    "master_pair_weight": "att_weightM",
    "master_attended_projection": "proj_with_attM",
    "master_own_projection": "proj_without_attM",
    "norm": "bn",
}
BLOCKS = {"unused_norm": "bn1", "norm": "bn2", "shortcut": "conv_downsample"}
NODES = {"input_norm": "first_bn1", "expand": "attention.0", "norm": "attention.2", "contract": "attention.3"}
AUTOENCODER_LAYER = {
    "attention.qkv": "attn.qkv",
    "attention.output": "attn.proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "norm1": "norm1",
    "norm2": "norm2",
}
MODULES = {
    "feature_projection": "SSL_proj",
    "backend_projection": "LL",
    "semantics.encoder": "whisper.model.encoder",
    "mae.encoder.patch_projection": "MAE.encoder.patch_embed.proj",
    "mae.encoder": "MAE.encoder",
    "mae.aggregation.key_expansion": "MAE.proj_k",
    "mae.aggregation.value_expansion": "MAE.proj_v",
    "mae.aggregation.attention": "MAE.attn",
    "semantic_to_acoustic": "ta_transformer",
    "acoustic_to_semantic": "at_transformer",
    "fusion": "at_ta_transformer",
}
DECODER = {
    "embedding": "decoder_embed",
    "norm": "decoder_norm",
    "prediction": "decoder_pred",
    "mask_token": "mask_token",
}
CROSS_MODAL = {
    "attention": "self_attn",
    "norm1": "layer_norms.0",
    "norm2": "layer_norms.1",
    "fc1": "fc1",
    "fc2": "fc2",
}


def published_graph_name(ours: str) -> str:
    """The reference's name of a tensor of one of our graphs."""
    match ours.split("."):
        case ["position"]:
            return "pos_S"
        case [branch, "master"]:
            return f"master{branch[-1]}"
        case [kind, "score", name]:
            return f"pool_{kind[0].upper()}.proj.{name}"
        case [branch, kind, "score", name]:
            return f"pool_h{kind[0].upper()}{branch[-1]}.proj.{name}"
        case [("spectral_layer" | "temporal_layer") as layer, module, *name]:
            return ".".join([f"GAT_layer_{layer[0].upper()}", LAYERS[module], *name])
        case [branch, layer, module, *name]:
            return ".".join([f"HtrgGAT_layer_ST{branch[-1]}{layer[-1]}", LAYERS[module], *name])
    raise AssertionError(ours)


def published_trunk_name(ours: str) -> str:
    """The reference's name of a tensor of our residual encoder, or of the making of graph nodes in `backend.nodes`."""
    match ours.split("."):
        case ["encoder", "input_norm", name]:
            return f"first_bn.{name}"
        case ["encoder", "blocks", index, module, name]:
            return f"encoder.{index}.0.{BLOCKS.get(module, module)}.{name}"
        case ["backend", "nodes", module, name]:
            return f"{NODES[module]}.{name}"
    raise AssertionError(ours)


def published_name(ours: str) -> str:
    """The reference's name of a tensor of our AASIST, as in `clovaai/aasist` and SSL_Anti-spoofing."""
    ours = ours.removeprefix("aasist.")
    for prefix, theirs in (("classifier.", "out_layer."), ("frontend.projection.", "LL.")):
        if ours.startswith(prefix):
            return ours.replace(prefix, theirs)
    if ours.startswith("backend.") and not ours.startswith("backend.nodes."):
        return published_graph_name(ours.removeprefix("backend."))
    return published_trunk_name(ours)


def fairseq_name(name: str) -> str:
    """fairseq's name of a tensor of transformers' Wav2Vec2Model (layer-norm kind)."""
    replacements = [
        ("masked_spec_embed", "mask_emb"),
        (".conv.weight", ".0.weight"),
        (".conv.bias", ".0.bias"),
        ("feature_projection.layer_norm", "layer_norm"),
        ("feature_projection.projection", "post_extract_proj"),
        ("encoder.pos_conv_embed.conv.parametrizations.weight.original0", "encoder.pos_conv.0.weight_g"),
        ("encoder.pos_conv_embed.conv.parametrizations.weight.original1", "encoder.pos_conv.0.weight_v"),
        ("encoder.pos_conv_embed.0.bias", "encoder.pos_conv.0.bias"),
        (".feed_forward.intermediate_dense", ".fc1"),
        (".feed_forward.output_dense", ".fc2"),
    ]
    if name.startswith("encoder.layers."):
        name = name.replace(".layer_norm.", ".self_attn_layer_norm.").replace(".attention.", ".self_attn.")
    if name.startswith("feature_extractor."):
        name = name.replace(".layer_norm.", ".2.1.")
    for ours, theirs in replacements:
        name = name.replace(ours, theirs)
    return name


def fairseq_state(encoder: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """The encoder as fairseq saves it, with the heads of its pretraining."""
    heads = {name: torch.ones(2) for name in ("quantizer.vars", "project_q.weight", "final_proj.bias")}
    state = {fairseq_name(name): value for name, value in encoder.state_dict().items()}
    return {f"{prefix}{name}": value for name, value in {**state, **heads}.items()}


def sastnet_name(ours: str) -> str:
    """The published name of one of our tensors, wav2vec 2.0 aside."""
    ours = ours.removeprefix("sastnet.")
    if ours.startswith("classifier."):
        return ours.replace("classifier", "multiclass_branch.out_layer")
    if ours.startswith(("encoder.", "backend.nodes.")):
        return published_trunk_name(ours)
    if ours.startswith("backend."):
        return f"multiclass_branch.{published_graph_name(ours.removeprefix('backend.'))}"
    if match := re.fullmatch(r"mae\.encoder\.layers\.(\d+)\.(.+)\.(\w+)", ours):
        return f"MAE.encoder.blocks.{match[1]}.{AUTOENCODER_LAYER[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"mae\.decoders\.(\d+)\.layers\.(\d+)\.(.+)\.(\w+)", ours):
        return f"MAE.all_decoders.{match[1]}.decoder_blocks.{match[2]}.{AUTOENCODER_LAYER[match[3]]}.{match[4]}"
    if match := re.fullmatch(r"mae\.decoders\.(\d+)\.(\w+)(.*)", ours):
        return f"MAE.all_decoders.{match[1]}.{DECODER[match[2]]}{match[3]}"
    if match := re.fullmatch(r"(\w+)\.layers\.(\d+)\.(\w+)\.(.+)", ours):
        return f"{MODULES[match[1]]}.layers.{match[2]}.{CROSS_MODAL[match[3]]}.{match[4]}"
    if match := re.fullmatch(r"(semantic_to_acoustic|acoustic_to_semantic|fusion)\.norm\.(\w+)", ours):
        return f"{MODULES[match[1]]}.layer_norm.{match[2]}"
    module = next(name for name in MODULES if ours.startswith(f"{name}."))
    return MODULES[module] + ours.removeprefix(module)


def sine_table(dim: int, steps: int, features: int) -> torch.Tensor:
    """AudioMAE's positions, `(1, 1 + steps * features, dim)`: half of the channels for the feature, half for the time."""
    rate = 10_000.0 ** (-4 * torch.arange(dim // 4, dtype=torch.float64) / dim)
    places = torch.cartesian_prod(torch.arange(steps), torch.arange(features)).flip(1)  # (feature, time)
    angles = places[:, :, None] * rate
    table = torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1)
    return torch.cat([torch.zeros(1, dim), table])[None].float()


def sastnet_extras(config: SASTNetConfig) -> dict[str, torch.Tensor]:
    """What the public code saves and never reads, and its position tables."""
    head = {
        "fc1.weight": (512, config.mae_hidden_size),
        "fc1.bias": (512,),
        "fc2.weight": (128, 512),
        "fc2.bias": (128,),
    }
    extras = {f"MAE.projection_head.{name}": torch.ones(size) for name, size in head.items()}
    extras["MAE.encoder.pos_embed"] = sine_table(config.mae_hidden_size, *config.grid_size)
    for index in range(config.num_decoders):
        table = sine_table(config.decoder_hidden_size, *config.grid_size)
        extras[f"MAE.all_decoders.{index}.decoder_pos_embed"] = table
    if config.use_semantics:
        decoder = WhisperDecoder(config.whisper_config).state_dict()
        extras |= {f"whisper.model.decoder.{name}": value for name, value in decoder.items()}
        for name in ("ta_transformer", "at_transformer", "at_ta_transformer"):
            extras |= {f"{name}.version": torch.ones(1), f"{name}.embed_positions._float_tensor": torch.ones(1)}
    return extras


def sastnet_state(model: SASTNetForAudioClassification) -> dict[str, torch.Tensor]:
    """The state dict that the public SASTNet would have saved."""
    own = model.state_dict()
    own.pop("loss_weights")
    state = {sastnet_name(name): value for name, value in own.items() if ".wav2vec2." not in name}
    if model.config.frontend == "wav2vec2":
        state |= fairseq_state(model.sastnet.wav2vec2, "SSL_model.model.")
    return state | sastnet_extras(model.config)
