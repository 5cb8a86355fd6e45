"""Scoring with an audio language model: computed work per clip at full size, and time and memory beside the usual way.

python benchmarks/audio_llm.py                         computed FLOPs; times and memory of two scaled-down models
python benchmarks/audio_llm.py --training              computed FLOPs and memory of the shipped recipes
python benchmarks/audio_llm.py --precision             how far 16-bit weights move the log-odds, on the same models
python benchmarks/audio_llm.py --full-size qwen2_audio --device cuda --dtype bfloat16      clips per second on a GPU
python benchmarks/audio_llm.py --full-size qwen2_audio --device cuda --precision           and the difference there

The usual way, as in the public code of ALLM4ADD and in transformers' examples: log-mel frames padded to 30 s, prompts padded
to the longest clip as clips come, logits of the whole vocabulary at every position, and autograd left on. Ours: frames of
the longest clip and two more, clips of like length together, two rows of the output head at one position, inference mode.

Weights and sounds are random. `slice` is one of the 32 layers of encoder and decoder each at full width with a 32nd of the
vocabulary: layers and head keep their shares of the work, convolutions and projector, which are one each, weigh more. `small`
is 256 wide with 4 layers and 32,000 words.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from common import CLOCKS, medians, print_machine, require_equal
from transformers import PreTrainedConfig, Qwen2AudioConfig

from spooftrace.modeling import (
    AudioLLMDetectorConfig,
    AudioLLMFeatureExtractor,
    AudioLLMForAudioClassification,
    QwenAudioConfig,
)
from spooftrace.modeling.audio_llm_backbones import SPARE_FRAMES, num_audio_tokens


RATE, FRAMES_PER_SECOND, WINDOW_FRAMES = 16_000, 100, 3000
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes
# Tokens of the prompt in front of the audio and behind it, as Qwen's tokenizer makes them of ALLM4ADD's question. With v1's
# two tags that is 18 + 1 and 1 + 13.
PROMPT_TOKENS = {"qwen2_audio": (18, 14), "qwen_audio": (19, 14)}


# --- models --------------------------------------------------------------------------------------------------------------


def qwen2_audio(
    layers: int = 32, vocab: int = 156_032, width: int = 4096, encoder_width: int = 1280
) -> PreTrainedConfig:
    """Qwen2-Audio-7B by default; the text sizes are those of the 7B Qwen models, since its own file was not at hand."""
    text = {"model_type": "qwen2", "hidden_size": width, "intermediate_size": width * 43 // 16, "vocab_size": vocab}
    heads = {"num_attention_heads": width // 128, "num_key_value_heads": width // 128}
    encoder = {"d_model": encoder_width, "encoder_layers": layers, "encoder_ffn_dim": 4 * encoder_width}
    return Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            **encoder,
            "encoder_attention_heads": encoder_width // 64,
            "num_mel_bins": 128,
        },
        text_config={**text, **heads, "num_hidden_layers": layers},
        audio_token_index=vocab - 1,
    )


SHAPES = {
    "slice": partial(qwen2_audio, layers=1, vocab=156_032 // 32),
    "small": partial(qwen2_audio, layers=4, vocab=32_000, width=256, encoder_width=128),
}
FULL_SIZE = {"qwen2_audio": qwen2_audio, "qwen_audio": QwenAudioConfig}


def detector_config(backbone: PreTrainedConfig) -> AudioLLMDetectorConfig:
    """Of a detector with a prompt of the published length, in tokens that mean nothing."""
    before, after = PROMPT_TOKENS[backbone.model_type]
    v1 = backbone.model_type == "qwen_audio"
    tags = ([backbone.audio_bos_token_id], [backbone.audio_eos_token_id]) if v1 else ([1], [1])
    return AudioLLMDetectorConfig(
        backbone_config=backbone,
        label_token_ids={"bonafide": 5, "spoof": 6},
        prompt_ids_before=[*range(2, before + 1), *tags[0]],
        prompt_ids_after=[*tags[1], *range(2, after + 1)],
        audio_token_id=backbone.audio_token_id,
    )


def make_model(backbone: PreTrainedConfig, seed: int, device: torch.device) -> AudioLLMForAudioClassification:
    torch.manual_seed(seed)
    with device:  # where billions of random weights take seconds
        return AudioLLMForAudioClassification(detector_config(backbone)).eval().to(device)


def make_extractor(backbone: PreTrainedConfig) -> AudioLLMFeatureExtractor:
    bins, v1 = backbone.audio_config.num_mel_bins, backbone.model_type == "qwen_audio"
    return AudioLLMFeatureExtractor(feature_size=bins, whole_frames=v1)


# --- computed work -------------------------------------------------------------------------------------------------------


def encoder_flops(config: PreTrainedConfig, frames: int) -> float:
    """Of Whisper's encoder and the projector over so many log-mel frames, two for a multiplication with its addition."""
    width = getattr(config.audio_config, "d_model", None) or config.audio_config.hidden_size
    layers = getattr(config.audio_config, "encoder_layers", None) or config.audio_config.num_hidden_layers
    inner = getattr(config.audio_config, "encoder_ffn_dim", None) or 4 * width
    positions, mels = frames // 2, config.audio_config.num_mel_bins
    convolutions = 3 * width * (frames * mels + positions * width)
    linear = layers * positions * (4 * width**2 + 2 * width * inner)
    attention = layers * 2 * positions**2 * width
    text = getattr(config, "text_config", config)
    return 2 * (convolutions + linear + attention + positions // 2 * width * text.hidden_size)


def decoder_flops(config: PreTrainedConfig, tokens: int) -> float:
    """Of the language model's layers, attention over all pairs of positions as it is computed."""
    text = getattr(config, "text_config", config)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads, pairs = text.num_attention_heads, getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    projections = text.hidden_size * head_dim * (2 * heads + 2 * pairs)
    per_token = projections + 3 * text.hidden_size * text.intermediate_size + 2 * tokens * heads * head_dim
    return 2 * text.num_hidden_layers * tokens * per_token


def head_flops(config: PreTrainedConfig, positions: int, words: int) -> float:
    return 2 * positions * words * getattr(config, "text_config", config).hidden_size


def clip_flops(config: PreTrainedConfig, seconds: float) -> dict[str, tuple[float, float]]:
    """Part -> FLOPs of one clip the usual way and ours."""
    vocab = getattr(config, "text_config", config).vocab_size
    frames = round(seconds * FRAMES_PER_SECOND)
    tokens = sum(PROMPT_TOKENS[config.model_type]) + num_audio_tokens(frames)
    cut = frames + SPARE_FRAMES + frames % 2
    # v1's public code cuts the frames to the longest clip by itself.
    padded = WINDOW_FRAMES if config.model_type == "qwen2_audio" else frames
    layers = decoder_flops(config, tokens)
    return {
        "encoder": (encoder_flops(config, padded), encoder_flops(config, min(cut, padded))),
        "decoder": (layers, layers),
        "head": (head_flops(config, tokens, vocab), head_flops(config, 1, 2)),
    }


def print_flops(seconds: float) -> None:
    for name, make in FULL_SIZE.items():
        config = make()
        with torch.device("meta"):
            count = sum(p.numel() for p in AudioLLMForAudioClassification(detector_config(config)).parameters())
        parts = clip_flops(config, seconds)
        usual, ours = (sum(pair[side] for pair in parts.values()) for side in (0, 1))
        print(f"{name}, {count:,} parameters, TFLOP per clip of {seconds:g} s: usual {usual / 1e12:.3f}", end="")
        print(f", ours {ours / 1e12:.3f}, ratio {usual / ours:.2f}")
        for part, (first, second) in parts.items():
            print(f"  {part:<8} {first / 1e12:7.4f} -> {second / 1e12:7.4f}")


def training_flops(config: PreTrainedConfig, seconds: float, train_encoder: bool) -> float:
    """
    Of one clip in a training step with adapters in a frozen decoder, whose activations are recomputed.

    Each part that gradients pass costs a forward pass thrice, and what its own weights' gradients cost where it is trained;
    adapters themselves, about 2 % of the decoder, are not counted. The loss is over three tokens.
    """
    frames = round(seconds * FRAMES_PER_SECOND)
    tokens = sum(PROMPT_TOKENS[config.model_type]) + num_audio_tokens(frames) + 3
    vocab = getattr(config, "text_config", config).vocab_size
    encoder = encoder_flops(config, frames + SPARE_FRAMES + frames % 2)
    return (4 if train_encoder else 1) * encoder + 3 * decoder_flops(config, tokens) + 2 * head_flops(config, 3, vocab)


def training_memory(model: AudioLLMForAudioClassification, four_bits: bool) -> tuple[float, float]:
    """
    Bytes of a detector's weights, and of what AdamW adds: a gradient and two moments in float32.

    Trained weights are in float32, frozen ones in bfloat16, or the decoder's matrices in 4 bits and an eighth, which is what
    doubly quantised normal floats need (arXiv 2305.14314).
    """
    decoder = model.backbone.get_submodule(model.parts.decoder)
    matrices = {id(m.weight) for m in decoder.modules() if four_bits and isinstance(m, torch.nn.Linear)}
    matrices -= {id(value) for name, value in model.backbone.named_parameters() if model.parts.in_encoder(name)}
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    frozen = [value for value in model.parameters() if not value.requires_grad]
    return 4 * trained + sum(v.numel() * (4.127 / 8 if id(v) in matrices else 2) for v in frozen), 12 * trained


def print_training(seconds: float) -> None:
    for name, make in FULL_SIZE.items():
        config, train_encoder = make(), name == "qwen_audio"
        flops = training_flops(config, seconds, train_encoder)
        print(
            f"{name}, {'trained' if train_encoder else 'frozen'} encoder: {flops / 1e12:.2f} TFLOP per clip of {seconds:g} s"
        )
        with torch.device("meta"):
            adapted = AudioLLMDetectorConfig(
                **{**detector_config(config).to_dict(), "lora": {}, "train_encoder": train_encoder}
            )
            model = AudioLLMForAudioClassification(adapted)
        for four_bits in (False, True):
            weights, rest = training_memory(model, four_bits)
            print(
                f"  {'4 bits' if four_bits else '16 bits'}: {weights / 1e9:.1f} GB of weights, {rest / 1e9:.1f} GB for AdamW"
            )


# --- measured ------------------------------------------------------------------------------------------------------------


class Sides:
    """One list of clips, scored in both ways; each returns the log-odds in the order of the list."""

    def __init__(self, backbone: PreTrainedConfig, arguments: argparse.Namespace, dtype: torch.dtype = torch.float32):
        self.device, self.batch = torch.device(arguments.device), arguments.batch
        self.model = make_model(backbone, arguments.seed, self.device).to(dtype)
        self.extractor = make_extractor(backbone)
        generator = np.random.default_rng(arguments.seed)
        spread = generator.uniform(0.5, 1.5, arguments.clips) if arguments.mixed else np.ones(arguments.clips)
        self.waves = [0.1 * generator.standard_normal(round(RATE * arguments.seconds * share)) for share in spread]

    def prepare(self, waves: list[np.ndarray]) -> dict[str, torch.Tensor]:
        inputs = self.extractor(waves, sampling_rate=RATE, return_tensors="pt")
        return dict(inputs.to(self.device, dtype=self.model.dtype))

    def ours(self) -> torch.Tensor:
        order = sorted(range(len(self.waves)), key=lambda index: len(self.waves[index]))
        scores = torch.empty(len(order))
        with torch.inference_mode():
            for first in range(0, len(order), self.batch):
                chosen = order[first : first + self.batch]
                logits = self.model(**self.prepare([self.waves[index] for index in chosen])).logits
                scores[chosen] = (logits[:, 0] - logits[:, 1]).float().cpu()
        return scores

    def usual(self) -> torch.Tensor:
        config, scores = self.model.config, []
        for first in range(0, len(self.waves), self.batch):
            inputs = self.prepare(self.waves[first : first + self.batch])
            missing = WINDOW_FRAMES - inputs["input_features"].shape[-1]
            # Zeros where the extractor of transformers would have silence; the mask keeps either out of the scores.
            padded = {name: torch.nn.functional.pad(values, (0, missing)) for name, values in inputs.items()}
            lengths = num_audio_tokens(inputs["feature_attention_mask"].sum(-1))
            prompts = self.model.prepare_inputs(lengths.tolist(), padding_side="left")
            logits = self.model.backbone(**padded, **prompts).logits[:, -1, config.label_ids].float()
            scores.append((logits[:, 0] - logits[:, 1]).detach().cpu())
        return torch.cat(scores)


SIDES: dict[str, Callable[[Sides], torch.Tensor]] = {"spooftrace": Sides.ours, "usual": Sides.usual}


def peak_memory(side: str, shape: str) -> float:
    """GB that a process had at most in which the model was made and one batch was scored."""
    command = [sys.executable, *sys.argv, "--memory-of", side, "--shape", shape]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(arguments: argparse.Namespace) -> None:
    arguments.clips = arguments.batch
    sides = Sides(SHAPES[arguments.shape](), arguments)
    if arguments.memory_of != "model":
        SIDES[arguments.memory_of](sides)
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT / 1e9))


def compare(shape: str, arguments: argparse.Namespace) -> None:
    # First: to Linux a new process has at least the peak of the one that started it.
    memory = {side: peak_memory(side, shape) for side in ("model", *SIDES)}
    config = SHAPES[shape]()
    parts = clip_flops(config, arguments.seconds)
    computed = sum(pair[0] for pair in parts.values()) / sum(pair[1] for pair in parts.values())
    sides = Sides(config, arguments)
    lengths = "mixed lengths around" if arguments.mixed else "clips of"
    print(f"{shape}, batches of {arguments.batch}, {arguments.clips} {lengths} {arguments.seconds:g} s")
    require_equal("log-odds", sides.ours(), sides.usual())
    functions = {name: partial(side, sides) for name, side in SIDES.items()}
    seconds = medians(functions, arguments.repeats, CLOCKS[arguments.clock])
    for name, value in seconds.items():
        beyond = memory[name] - memory["model"]
        print(
            f"  {name:<10} {value:7.2f} s {arguments.clips / value:7.2f} clips/s  {beyond:5.2f} GB beyond the model's"
        )
    ratio = seconds["usual"] / seconds["spooftrace"]
    print(f"  ratio {ratio:.2f}; computed for clips of one length {computed:.2f}", flush=True)


def precision(backbone: PreTrainedConfig, label: str, arguments: argparse.Namespace) -> None:
    """How far 16-bit weights move the log-odds of the same random model."""
    scores = {
        name: Sides(backbone, arguments, getattr(torch, name)).ours() for name in ("float32", "bfloat16", "float16")
    }
    print(f"{label}: log-odds of {arguments.clips} clips, standard deviation {scores['float32'].std():.3f}")
    for name in ("bfloat16", "float16"):
        difference = (scores[name] - scores["float32"]).abs()
        print(f"  {name}: differs by {difference.mean():.4f} in the mean, {difference.max():.4f} at most", flush=True)


def full_size(arguments: argparse.Namespace) -> None:
    """Clips per second and memory of a model of the published size with random weights."""
    sides = Sides(FULL_SIZE[arguments.full_size](), arguments, getattr(torch, arguments.dtype))
    cuda = sides.device.type == "cuda"
    for name, side in SIDES.items():
        side(sides)  # warms up
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        start = time.perf_counter()
        side(sides)  # ends with scores on the CPU
        rate = arguments.clips / (time.perf_counter() - start)
        memory = f", {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if cuda else ""
        print(f"{arguments.full_size}, {arguments.dtype}, {name}: {rate:.2f} clips/s{memory}", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16, help="of the list (default: 16)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a clip (default: 4)")
    parser.add_argument("--mixed", action="store_true", help="lengths from half to one and a half of that")
    parser.add_argument("--batch", type=int, default=4, help="clips in a forward pass, as in ALLM4ADD (default: 4)")
    parser.add_argument("--shape", choices=list(SHAPES), action="append", help="scaled-down models (default: both)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each side (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: 1)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="time passed or processor time")
    parser.add_argument("--seed", type=int, default=0, help="of weights and clips (default: 0)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--full-size", choices=list(FULL_SIZE), help="a model of the published size instead")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of --full-size"
    )
    parser.add_argument("--precision", action="store_true", help="differences in log-odds instead of times")
    parser.add_argument("--training", action="store_true", help="computed work and memory of training instead")
    parser.add_argument("--memory-of", choices=["model", *SIDES], help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        arguments.shape = arguments.shape[-1]
        measure_memory(arguments)
        return
    print_machine(arguments)
    if arguments.training:
        print_training(arguments.seconds)
    elif arguments.full_size and not arguments.precision:
        full_size(arguments)
    elif arguments.precision:
        chosen = {arguments.full_size: FULL_SIZE[arguments.full_size]} if arguments.full_size else SHAPES
        for label, make in chosen.items():
            precision(make(), label, arguments)
    else:
        print_flops(arguments.seconds)
        for shape in arguments.shape or SHAPES:
            compare(shape, arguments)


if __name__ == "__main__":
    main()
