"""The back-end computes less than its formulas say, and the same: each shortcut against the formula written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spooftrace.modeling import aasist
from spooftrace.modeling.configuration_aasist import AasistConfig
from spooftrace.modeling.frontends import SincFrontend
from spooftrace.modeling.modeling_aasist import AasistForAudioClassification


SAMPLES = 4000


def small_model(**overrides) -> AasistForAudioClassification:
    """Every mechanism of the family in a model that runs in milliseconds."""
    torch.manual_seed(0)
    fields = {
        "frontend": "sinc",
        "num_filters": 24,
        "sinc_kernel_size": 33,
        "encoder_channels": [4, 6, 6],
        "encoder_pooling": [[1, 3], [1, 3], [1, 2]],
        "node_aggregation": "attention",
        "graph_dims": [8, 6],
    }
    model = AasistForAudioClassification(AasistConfig(**{**fields, **overrides}))
    for module in model.modules():  # statistics that matter in evaluation
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def waveforms(batch: int, samples: int = SAMPLES) -> torch.Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(1))


def pair_scores_by_loop(rows, columns, projection, weight):
    scores = torch.empty(len(rows), rows.shape[1], columns.shape[1], dtype=rows.dtype)
    for clip in range(len(rows)):
        for i in range(rows.shape[1]):
            for j in range(columns.shape[1]):
                hidden = torch.tanh(projection(rows[clip, i] * columns[clip, j]))
                scores[clip, i, j] = (hidden * weight[:, 0]).sum()
    return scores


@pytest.mark.parametrize("count", [1, 2, 7])
def test_pair_scores_are_those_of_every_pair(count):
    torch.manual_seed(0)
    projection, weight = nn.Linear(5, 4).double(), torch.randn(4, 1, dtype=torch.double)
    nodes, others = torch.randn(2, count, 5, dtype=torch.double), torch.randn(2, 3, 5, dtype=torch.double)
    expected = pair_scores_by_loop(nodes, others, projection, weight)
    torch.testing.assert_close(aasist.pair_scores(nodes, others, projection, weight), expected)
    expected = pair_scores_by_loop(nodes, nodes, projection, weight)
    torch.testing.assert_close(aasist.self_pair_scores(nodes, projection, weight), expected)


def test_half_of_a_symmetric_map_has_the_gradients_of_the_whole():
    torch.manual_seed(0)
    projection, weight = nn.Linear(3, 2).double(), torch.randn(2, 1, dtype=torch.double, requires_grad=True)
    nodes = torch.randn(2, 4, 3, dtype=torch.double, requires_grad=True)
    inputs = [nodes, weight, projection.weight, projection.bias]

    def scores(nodes, weight, matrix, bias):
        return aasist.self_pair_scores(nodes, lambda pairs: F.linear(pairs, matrix, bias), weight)

    assert torch.autograd.gradcheck(scores, inputs)
    upstream = torch.randn(2, 4, 4, dtype=torch.double)
    half = torch.autograd.grad(scores(*inputs), inputs, upstream)
    whole = torch.autograd.grad(aasist.pair_scores(nodes, nodes, projection, weight), inputs, upstream)
    for half_gradient, whole_gradient in zip(half, whole, strict=True):
        torch.testing.assert_close(half_gradient, whole_gradient)


def test_tanh_scores_keep_single_precision():
    hidden, weight = torch.linspace(-20, 20, 10_001)[:, None], torch.ones(1, 1)
    expected = torch.tanh(hidden.double())[:, 0]
    torch.testing.assert_close(aasist.tanh_scores(hidden.clone(), weight).double(), expected, rtol=0, atol=5e-7)


@pytest.mark.parametrize(("count", "ratio", "kept"), [(7, 0.5, 3), (3, 0.1, 1), (10, 0.7, 7)])
def test_graph_pool_keeps_the_best_nodes_best_first(count, ratio, kept):
    torch.manual_seed(0)
    pool = aasist.GraphPool(4, ratio, dropout=0.3).eval()
    nodes = torch.randn(3, count, 4)
    pooled, scores = pool(nodes)
    for clip in range(3):
        expected = [torch.sigmoid(pool.score(node))[0] for node in nodes[clip]]
        torch.testing.assert_close(scores[clip], torch.stack(expected))
        order = sorted(range(count), key=lambda node: -expected[node])[:kept]
        torch.testing.assert_close(pooled[clip], torch.stack([nodes[clip, node] * expected[node] for node in order]))


def test_attentive_nodes_are_weighted_sums():
    torch.manual_seed(0)
    nodes = aasist.AttentiveNodes(3).eval()
    maps = torch.randn(2, 3, 4, 5)
    spectral, temporal = nodes(maps.clone())
    hidden = F.selu(nodes.input_norm(maps))
    logits = nodes.contract(nodes.norm(F.selu(nodes.expand(hidden))))
    torch.testing.assert_close(spectral, (hidden * logits.softmax(3)).sum(3).transpose(1, 2))
    torch.testing.assert_close(temporal, (hidden * logits.softmax(2)).sum(2).transpose(1, 2))


@pytest.mark.parametrize("samples", [400, 401, 402, 1000])
def test_sinc_front_end_is_convolution_magnitude_and_pooling(samples):
    config = AasistConfig(num_filters=25, sinc_kernel_size=33)  # the 25th filter belongs to no pooling window
    frontend = SincFrontend(config)
    inputs = waveforms(3, samples).requires_grad_()
    expected = F.max_pool2d(F.conv1d(inputs[:, None], frontend.filters[:, None]).abs()[:, None], 3)
    actual = frontend(inputs)
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(expected)
    gradients = [torch.autograd.grad(output, inputs, upstream)[0] for output in (actual, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("width", [12, 13, 14, 29, 60])
@pytest.mark.parametrize(
    ("channels", "pooling"), [((1, 4), (1, 3)), ((4, 4), (1, 3)), ((4, 6), (2, 2)), ((4, 4), (1, 1))]
)
def test_tiles_of_a_residual_block_meet_without_a_seam(monkeypatch, channels, pooling, width):
    torch.manual_seed(0)
    block = aasist.ResidualBlock(*channels, pooling=pooling, is_first=channels[0] == 1).eval()
    maps = torch.randn(2, channels[0], 5, width)
    hidden = F.selu(block.norm(block.conv1(maps)))
    expected = F.max_pool2d(block.conv2(hidden) + block.shortcut(maps), pooling)
    torch.testing.assert_close(block(maps), expected)
    monkeypatch.setattr(aasist, "TILE_WIDTH", 8)
    torch.testing.assert_close(block(maps), expected)


def test_a_clip_scores_the_same_alone_and_in_any_batch():
    model = small_model().eval()
    inputs = waveforms(5)
    with torch.no_grad():
        together = model(inputs).logits
        alone = torch.cat([model(clip[None]).logits for clip in inputs])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_evaluation_clip_by_clip_equals_the_whole_batch(monkeypatch):
    model = small_model().eval()
    by_clip = model(waveforms(3)).logits
    monkeypatch.setattr(aasist, "clip_by_clip", lambda function, maps: function(maps))
    torch.testing.assert_close(by_clip, model(waveforms(3)).logits, rtol=0, atol=1e-6)


def loss_and_gradients(model: AasistForAudioClassification) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    model.train().zero_grad()
    torch.manual_seed(2)  # dropout
    loss = model(waveforms(4), labels=torch.tensor([0, 1, 1, 0])).loss
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def test_gradient_checkpointing_changes_neither_loss_nor_gradients():
    loss, gradients = loss_and_gradients(small_model())
    model = small_model()
    model.activation_checkpointing_enable()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    checkpointed_loss, checkpointed = loss_and_gradients(model)
    torch.testing.assert_close(checkpointed_loss, loss, rtol=0, atol=0)
    torch.testing.assert_close(checkpointed, gradients)


def test_unused_norm_is_dead_weight():
    model = small_model()
    _, gradients = loss_and_gradients(model)
    dead = {name for name in gradients if ".unused_norm." in name}
    assert len(dead) == 4  # weight and bias in each block but the first
    assert {name for name, gradient in gradients.items() if gradient is None} == dead
    model.eval()
    before = model(waveforms(2)).logits
    for name, tensor in model.state_dict().items():
        if ".unused_norm." in name:
            tensor.fill_(7)
    assert torch.equal(model(waveforms(2)).logits, before)


def test_training_runs_under_autocast():
    model = small_model().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(waveforms(4), labels=torch.tensor([0, 1, 1, 0])).loss
    loss.backward()
    assert torch.isfinite(loss)
