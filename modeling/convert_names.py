"""Names in the published checkpoints -> ours, for the parts that several published models share.

The back-end of AASIST as in `clovaai/aasist`, SSL_Anti-spoofing and SASTNet, and wav2vec 2.0 under fairseq's names.
"""

import re
from collections.abc import Mapping


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
_TRUNK = {
    "first_bn": "encoder.input_norm",
    "first_bn1": "backend.nodes.input_norm",
    "attention.0": "backend.nodes.expand",
    "attention.2": "backend.nodes.norm",
    "attention.3": "backend.nodes.contract",
}
_GRAPH = {
    "pos_S": "position",
    "master1": "branch1.master",
    "master2": "branch2.master",
    "pool_S.proj": "spectral_pool.score",
    "pool_T.proj": "temporal_pool.score",
    "pool_hS1.proj": "branch1.spectral_pool.score",
    "pool_hT1.proj": "branch1.temporal_pool.score",
    "pool_hS2.proj": "branch2.spectral_pool.score",
    "pool_hT2.proj": "branch2.temporal_pool.score",
}

FAIRSEQ_DROPPED = {
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


def rename_parts(key: str, table: Mapping[str, str]) -> str | None:
    """`key` with its first dotted parts replaced by the table's, or `None` where the table has no such parts."""
    for reference, ours in table.items():
        if key == reference or key.startswith(reference + "."):
            return ours + key[len(reference) :]
    return None


def rename_trunk_key(key: str) -> str | None:
    """Our name, within the bare model, for a tensor of the residual encoder or of the making of graph nodes."""
    if match := re.fullmatch(r"encoder\.(\d+)\.0\.(\w+)\.(\w+)", key):
        index, module, name = match.groups()
        return f"encoder.blocks.{index}.{_BLOCK[module]}.{name}" if module in _BLOCK else None
    return rename_parts(key, _TRUNK)


def rename_graph_key(key: str) -> str | None:
    """Our name, within `GraphHead`, for a tensor of the graph, or `None` for a stranger."""
    if match := re.fullmatch(r"GAT_layer_([ST])\.(\w+)(\.\w+)?", key):
        kind, module, name = match.groups()
        layer = {"S": "spectral_layer", "T": "temporal_layer"}[kind]
        return f"{layer}.{_GRAPH_LAYER[module]}{name or ''}" if module in _GRAPH_LAYER else None
    if match := re.fullmatch(r"HtrgGAT_layer_ST([12])([12])\.(\w+)(\.\w+)?", key):
        branch, layer, module, name = match.groups()
        if module not in _HETEROGENEOUS_LAYER:
            return None
        return f"branch{branch}.layer{layer}.{_HETEROGENEOUS_LAYER[module]}{name or ''}"
    return rename_parts(key, _GRAPH)


def rename_fairseq_key(key: str) -> str | None:
    """transformers' name, within `Wav2Vec2Model`, for a tensor of fairseq's wav2vec 2.0, or `None` for a stranger."""
    for pattern, replacement in _FAIRSEQ_RULES:
        if match := re.fullmatch(pattern, key):
            return match.expand(replacement)
    return None
