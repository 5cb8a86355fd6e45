"""SASTNet beside the public code: parity block by block, inference stage by stage, memory of a training step.

python benchmarks/sastnet.py --reference path/to/CodecFake-Source-Tracing --threads 2

Weights and clips are random, both sides share the weights. Without `--reference`, ours is measured alone. Needs torchaudio
for the reference, 6 GB of memory for parity and inference, and for the training steps 17 GB, or less with fewer `--clips`.
"""

import argparse
import importlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from common import CLOCKS, medians, no_dropout, print_machine, require_equal
from sastnet_reference import reference_model
from torch import nn
from transformers import initialization as init

from spooftrace.modeling.audio_mae import draw_kept_patches, masked_errors, patchify
from spooftrace.modeling.configuration_aasist import XLSR_300M
from spooftrace.modeling.configuration_sastnet import SASTNetConfig
from spooftrace.modeling.convert_sastnet import FAIRSEQ_PREFIX, rename_key
from spooftrace.modeling.kaldi_filter_bank import KaldiFilterBank
from spooftrace.modeling.modeling_sastnet import SASTNetForAudioClassification
from spooftrace.modeling.sastnet_loss import automatic_weighted_loss, margin_reconstruction_loss


SECTIONS = ("memory", "parity", "inference")
SAMPLES, MASK_RATIO = 82_200, 0.4
LOSS_WEIGHTS = torch.tensor([0.8, 1.3])
TRANSFORMERS = {
    "semantic_to_acoustic": "ta_transformer",
    "acoustic_to_semantic": "at_transformer",
    "fusion": "at_ta_transformer",
}
# All that the public code leaves open, made small: for gradients in double precision.
SMALL = {
    "wav2vec2_config": XLSR_300M
    | {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    | {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2},
    "whisper_config": {
        "d_model": 32,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
    },
    "mae_hidden_size": 32,
    "mae_num_layers": 2,
    "mae_num_heads": 4,
    "mae_intermediate_size": 64,
    "decoder_hidden_size": 16,
    "decoder_num_layers": 2,
    "decoder_num_heads": 4,
    "decoder_intermediate_size": 32,
    "fusion_num_heads": 4,
    "fusion_intermediate_size": 128,
}
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", metavar="DIR", help="a checkout of ResponsibleGenAI/CodecFake-Source-Tracing")
    parser.add_argument("--task", choices=["bin", "vq", "aux", "dec"], default="aux", help="(default: aux)")
    parser.add_argument("--only", choices=list(SECTIONS), nargs="+", default=list(SECTIONS), help="(default: all)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="batch sizes to time (default: 1 4)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each side (default: 3)")
    parser.add_argument(
        "--contexts", type=int, nargs="+", default=[256, 512, 1024], help="steps that Whisper attends to"
    )
    parser.add_argument("--clips", type=int, default=12, help="of a training step (default: 12, as in the paper)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: 1)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="time passed or processor time")
    parser.add_argument("--seed", type=int, default=0, help="of weights and clips (default: 0)")
    parser.add_argument("--memory-of", choices=list(TRAINING), help=argparse.SUPPRESS)
    return parser.parse_args()


# ---------------------------------------------------------------- the same weights in both


def our_name(key: str) -> str | None:
    """Our name for a tensor of the reference, whose wav2vec 2.0 is transformers' here; `None` for one that we do without."""
    if key.startswith(FAIRSEQ_PREFIX):
        return key.replace(FAIRSEQ_PREFIX, "sastnet.wav2vec2.")
    ours, dropped = rename_key(key)
    if ours is None and dropped is None:
        raise SystemExit(f"{key} of the reference is unknown: this needs the checkout of 2025-08-11 or one like it.")
    return ours


def our_model(state: dict[str, torch.Tensor], config: SASTNetConfig) -> SASTNetForAudioClassification:
    """Ours around the tensors of `state`, which are shared and not copied, in evaluation mode."""
    with init.no_init_weights():
        model = SASTNetForAudioClassification(config)
    model.load_state_dict(state, assign=True)
    return model.eval()


@torch.no_grad()
def enliven(model: nn.Module):
    """Moves biases, normalisations and running statistics away from the 0 and 1 that they start from."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)


def make_models(folder: str | None, config: SASTNetConfig) -> tuple[SASTNetForAudioClassification, nn.Module | None]:
    """Ours and the reference, or ours alone."""
    if folder is None:
        model = SASTNetForAudioClassification(config).eval()
        enliven(model)
        return model, None
    reference = reference_model(folder, config)
    enliven(reference)
    renamed = {our_name(key): value for key, value in reference.state_dict().items()}
    renamed.pop(None, None)
    return our_model({**renamed, "loss_weights": LOSS_WEIGHTS.clone()}, config), reference


def random_clips(batch: int) -> torch.Tensor:
    return 0.1 * torch.randn(batch, SAMPLES)


# ---------------------------------------------------------------- parity


def reference_backend(reference: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Fused tokens -> logits."""
    image = F.max_pool2d(reference.LL(tokens).transpose(1, 2).unsqueeze(1), (3, 3))
    maps = reference.encoder(F.selu(reference.first_bn(image)))
    maps = F.selu(reference.first_bn1(maps))
    return reference.multiclass_branch(maps, reference.attention(maps))[0]


def steps_first(transformer: nn.Module, query: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """A transformer of the reference, which wants the steps before the batch."""
    query, memory = query.transpose(0, 1), memory.transpose(0, 1)
    return transformer(query, memory, memory).transpose(0, 1)


@contextmanager
def masked(encoder: nn.Module, kept: torch.Tensor):
    """Within it, the reference keeps the patches `kept` instead of random ones."""

    def mask_others(tokens, **_):
        mask = torch.ones(tokens.shape[:2]).scatter(1, kept, 0.0)
        order = mask.argsort(dim=1, stable=True)
        return tokens.gather(1, kept[:, :, None].expand(-1, -1, tokens.shape[2])), mask, order.argsort(dim=1)

    random_masking = encoder.random_masking_2d
    encoder.random_masking_2d = mask_others
    yield
    encoder.random_masking_2d = random_masking


def compare_autoencoder(ours: nn.Module, reference: nn.Module, image: torch.Tensor, kept: torch.Tensor | None):
    """Encoder, decoders and attention over them, each fed by the reference's stage before it."""
    which = (
        "all patches"
        if kept is None
        else f"{kept.shape[1]} of {reference.MAE.encoder.patch_embed.num_patches} patches"
    )
    tokens, _, order, _ = reference.MAE.encoder(image, MASK_RATIO if kept is not None else 0.0, kept is not None, True)
    require_equal(f"autoencoder, {which}: encoder", ours.mae.encoder(image, kept), tokens)
    theirs = torch.stack([decoder(tokens, order)[0] for decoder in reference.MAE.all_decoders], dim=1)
    patches = torch.stack([decoder(tokens, kept, theirs.shape[2]) for decoder in ours.mae.decoders], dim=1)
    require_equal(f"autoencoder, {which}: decoders", patches, theirs)
    memory = theirs.permute(0, 2, 1, 3).flatten(1, 2)
    attended = reference.MAE.attn(tokens, reference.MAE.proj_k(memory), reference.MAE.proj_v(memory))[0]
    require_equal(f"autoencoder, {which}: attention", ours.mae.aggregation(tokens, theirs), attended)


def compare_losses(ours: SASTNetForAudioClassification, reference: nn.Module, image: torch.Tensor, kept: torch.Tensor):
    """Margin, class weights and automatic weighting, from the same image, mask and logits."""
    config = ours.config
    labels = torch.arange(len(image)) % config.num_labels
    theirs, _, _ = reference.MAE(image, labels, MASK_RATIO, use_SSL_feat=True)
    _, patches = ours.sastnet.mae(image, kept)
    _, errors = masked_errors(patches, patchify(image, config.patch_size), kept)
    reconstruction = margin_reconstruction_loss(errors, labels, config.margin)
    require_equal("reconstruction loss with margin", reconstruction, theirs)
    logits = torch.randn(len(image), config.num_labels)
    classification = F.cross_entropy(logits, labels, torch.tensor(config.class_weights))
    losses = ours._losses(logits, errors, labels)
    require_equal("class-weighted cross-entropy", losses["classification_loss"], classification)
    weighting = loss_weighting(reference)
    require_equal(
        "automatic weighting",
        automatic_weighted_loss(torch.stack([reconstruction, classification]), LOSS_WEIGHTS),
        weighting(theirs, classification),
    )


def loss_weighting(reference: nn.Module) -> nn.Module:
    """The reference's automatic weights, set to `LOSS_WEIGHTS`."""
    weighting = importlib.import_module("AutoWeightLoss").AutomaticWeightedLoss(2)
    weighting.params.data = LOSS_WEIGHTS.to(next(reference.parameters()).dtype)
    return weighting


@torch.no_grad()
def compare_blocks(ours: SASTNetForAudioClassification, reference: nn.Module):
    """Every block at full size, fed with the same input; then the whole model."""
    inner, clips = ours.sastnet, random_clips(2)
    print("Same weights in both, evaluation:")
    filter_bank = KaldiFilterBank(SASTNetConfig(frontend="mel", use_semantics=False))
    require_equal("Kaldi filter bank", filter_bank(clips), reference.wav_to_mel(clips)[:, 0])
    image = reference.SSL_proj(reference.SSL_model.extract_feat(clips))[:, None]
    require_equal("wav2vec 2.0 and projection", inner.acoustic_image(clips), image)
    semantic = reference.whisper.extract_feat(clips)
    require_equal("log-mel and Whisper", inner.semantic_features(clips), semantic)
    compare_autoencoder(inner, reference, image, None)
    kept = draw_kept_patches(ours.config, len(clips), inner.config.grid_size[0], clips.device)
    with masked(reference.MAE.encoder, kept):
        compare_autoencoder(inner, reference, image, kept)
        compare_losses(ours, reference, image, kept)
    acoustic = reference.MAE.predict(image)
    for name, theirs in TRANSFORMERS.items():
        query, memory = (semantic, acoustic) if name == "semantic_to_acoustic" else (acoustic, semantic)
        require_equal(
            f"transformer {name}",
            getattr(inner, name)(query, memory)[0],
            steps_first(getattr(reference, theirs), query, memory),
        )
    fused = 4 * torch.randn_like(acoustic)
    require_equal("back-end", ours.classifier(inner._embed(fused)), reference_backend(reference, fused))
    require_equal("logits of the whole model", ours(clips).logits, reference.predict(clips))


def compare_training(folder: str, task: str):
    """
    Loss and all gradients of a small model, in double precision without dropout; the masks come from equal seeds.

    In single precision, rounding decides which of two nearly equal nodes a maximum picks, and gradients jump.
    """
    ours, reference = make_models(folder, SASTNetConfig(task=task, **SMALL))
    reference.whisper.extract_feat = ours.semantic_features  # compared above; the reference's is of single precision
    clips, labels = random_clips(3).double(), torch.arange(3) % ours.config.num_labels
    ours.double().train(), reference.double().train()
    with no_dropout(ours, reference):
        for module in reference.modules():  # its transformers call the function
            for name in ("dropout", "relu_dropout", "res_dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        torch.manual_seed(1)
        loss = ours(clips, labels=labels).loss
        torch.manual_seed(1)
        theirs = reference_loss(reference, clips, labels, ours.config)
    print("Small model, training without dropout, double precision:")
    require_equal("loss", loss.detach(), theirs.detach())
    loss.backward(), theirs.backward()
    own = {name: parameter.grad for name, parameter in ours.named_parameters()}
    pairs = [
        (own[our_name(name)].flatten(), parameter.grad.flatten())
        for name, parameter in reference.named_parameters()
        if parameter.grad is not None
    ]
    require_equal("gradients of all weights", *(torch.cat(side) for side in zip(*pairs, strict=True)))


def reference_loss(
    reference: nn.Module, clips: torch.Tensor, labels: torch.Tensor, config: SASTNetConfig
) -> torch.Tensor:
    """What the reference's training script minimises."""
    logits, reconstruction = reference(clips, labels, MASK_RATIO)
    classification = F.cross_entropy(logits, labels, torch.tensor(config.class_weights, dtype=logits.dtype))
    return loss_weighting(reference)(reconstruction, classification)


# ---------------------------------------------------------------- inference


def reference_fusion(reference: nn.Module, acoustic: torch.Tensor, semantic: torch.Tensor) -> torch.Tensor:
    by_acoustic = steps_first(reference.at_transformer, acoustic, semantic)
    by_semantic = steps_first(reference.ta_transformer, semantic, acoustic)
    return steps_first(reference.at_ta_transformer, by_acoustic, by_semantic)


def stages(
    ours: SASTNetForAudioClassification, reference: nn.Module | None, batch: int
) -> dict[str, dict[str, Callable[[], object]]]:
    """What to time: stage -> side -> call. Every stage starts from what the one before it gave."""
    inner, clips = ours.sastnet, random_clips(batch)
    image, semantic = inner.acoustic_image(clips), inner.semantic_features(clips)
    acoustic, _ = inner.mae(image)
    fused, _ = inner._fuse(acoustic, semantic, False)
    calls = {
        "wav2vec 2.0": {"spooftrace": partial(inner.acoustic_image, clips)},
        "Whisper": {"spooftrace": partial(inner.semantic_features, clips)},
        "autoencoder": {"spooftrace": partial(inner.mae, image)},
        "fusion": {"spooftrace": partial(inner._fuse, acoustic, semantic, False)},
        "back-end": {"spooftrace": lambda: ours.classifier(inner._embed(fused))},
        "whole model": {"spooftrace": partial(ours, clips)},
    }
    if reference is not None:
        theirs = {
            "wav2vec 2.0": lambda: reference.SSL_proj(reference.SSL_model.extract_feat(clips)),
            "Whisper": partial(reference.whisper.extract_feat, clips),
            "autoencoder": partial(reference.MAE.predict, image),
            "fusion": partial(reference_fusion, reference, acoustic, semantic),
            "back-end": partial(reference_backend, reference, fused),
            "whole model": partial(reference.predict, clips),
        }
        for stage, call in theirs.items():
            calls[stage]["reference"] = call
    return calls


@torch.no_grad()
def time_inference(arguments: argparse.Namespace, ours: SASTNetForAudioClassification, reference: nn.Module | None):
    """Stage by stage; and Whisper and the whole model with fewer steps that Whisper attends to."""
    state = ours.state_dict()
    short = {
        context: our_model(state, SASTNetConfig(**{**own_fields(ours.config), "whisper_context": context}))
        for context in arguments.contexts
    }
    for batch in arguments.batches:
        clips = random_clips(batch)
        calls = stages(ours, reference, batch)
        for context, model in short.items():
            calls["Whisper"][f"context {context}"] = partial(model.semantic_features, clips)
            calls["whole model"][f"context {context}"] = partial(model, clips)
        for stage, sides in calls.items():
            print_times(stage, batch, medians(sides, arguments.repeats, CLOCKS[arguments.clock]))
    report_contexts(ours, short)


def own_fields(config: SASTNetConfig) -> dict:
    """The fields that make a configuration of the same sizes."""
    return {"task": config.task, "wav2vec2_config": config.wav2vec2_config, "whisper_config": config.whisper_config}


def print_times(stage: str, batch: int, seconds: dict[str, float]):
    row = "  ".join(f"{side} {1e3 * value:8.0f} ms" for side, value in seconds.items())
    ratio = f"  ratio {seconds['reference'] / seconds['spooftrace']:.2f}" if "reference" in seconds else ""
    print(f"{stage:<12} batch {batch}  {row}{ratio}", flush=True)


def report_contexts(ours: SASTNetForAudioClassification, short: dict[int, SASTNetForAudioClassification]):
    """What fewer steps change; with random weights, this says little about trained ones."""
    clips = random_clips(4)
    semantic, logits = ours.semantic_features(clips), ours(clips).logits
    print("Against Whisper's full context, random weights:")
    for context, model in short.items():
        features, changed = model.semantic_features(clips), model(clips).logits
        print(
            f"  context {context:>4}: semantic features differ by {relative(features, semantic):.1e} of their norm, logits by "
            f"at most {(changed - logits).abs().max():.1e} of a spread over clips of {logits.std(dim=0).max():.1e}, "
            f"{(changed.argmax(1) != logits.argmax(1)).sum()} of {len(clips)} labels change"
        )


def relative(values: torch.Tensor, expected: torch.Tensor) -> float:
    return ((values - expected).norm() / expected.norm()).item()


# ---------------------------------------------------------------- memory of a training step


def train_ours(arguments: argparse.Namespace, checkpointing: bool = False, kept: bool = False):
    """One forward and backward pass; `kept` as with Whisper's features from a cache."""
    model = make_models(None, SASTNetConfig(task=arguments.task))[0].train()
    if checkpointing:
        model.activation_checkpointing_enable()
    clips, labels = random_clips(arguments.clips), torch.arange(arguments.clips) % model.config.num_labels
    steps = model.config.semantic_frames // 2
    semantic = torch.randn(arguments.clips, steps, model.config.mae_hidden_size) if kept else None
    start = time.perf_counter()
    model(clips, labels=labels, semantic_features=semantic).loss.backward()
    return time.perf_counter() - start


def train_reference(arguments: argparse.Namespace) -> float:
    config = SASTNetConfig(task=arguments.task)
    reference = reference_model(arguments.reference, config).train()
    clips, labels = random_clips(arguments.clips), torch.arange(arguments.clips) % config.num_labels
    start = time.perf_counter()
    reference_loss(reference, clips, labels, config).backward()
    return time.perf_counter() - start


TRAINING = {
    "reference": train_reference,
    "spooftrace": train_ours,
    "spooftrace, kept features": partial(train_ours, kept=True),
    "spooftrace, checkpointing": partial(train_ours, checkpointing=True),
}


def measure_memory(arguments: argparse.Namespace):
    """Peak memory of each kind of step, in a process of its own."""
    print(f"One forward and backward pass on {arguments.clips} clips, without the optimiser's state:")
    for side in TRAINING:
        if side == "reference" and not arguments.reference:
            continue
        command = [sys.executable, *sys.argv, "--memory-of", side]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        gigabytes, seconds = json.loads(output.splitlines()[-1])
        print(f"  {side:<26} peak memory {gigabytes:5.2f} GB  {seconds:6.1f} s", flush=True)


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    if arguments.memory_of:
        seconds = TRAINING[arguments.memory_of](arguments)
        print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT / 1e9, seconds]))
        return
    print_machine(arguments)
    if "memory" in arguments.only:  # first: to Linux a new process has at least the peak of the one that started it
        measure_memory(arguments)
    if arguments.only == ["memory"]:
        return
    ours, reference = make_models(arguments.reference, SASTNetConfig(task=arguments.task))
    if "parity" in arguments.only and reference is not None:
        compare_blocks(ours, reference)
        compare_training(arguments.reference, arguments.task)
    if "inference" in arguments.only:
        time_inference(arguments, ours, reference)


if __name__ == "__main__":
    main()
