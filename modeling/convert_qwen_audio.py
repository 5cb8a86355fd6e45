"""The public Qwen-Audio(-Chat) repository -> a folder that transformers 5 loads without remote code.

Our state dict has the published keys, so that every shard is checked, cast and written anew by itself: memory holds one
shard at a time. No file of Python code is read.
"""

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers.normalizers import NFC
from transformers import GenerationConfig, PreTrainedTokenizerFast, WhisperFeatureExtractor
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.dynamic_module_utils import custom_object_save

from .configuration_qwen_audio import QwenAudioConfig
from .convert_common import ConversionError, ConversionReport, listed, new_folder, read_checkpoint
from .modeling_qwen_audio import AUTO_MAP, QwenAudioForConditionalGeneration
from .processing_qwen_audio import QwenAudioProcessor


MODEL_NAME = "Qwen-Audio v1"
TOKENIZER_FILE = "qwen.tiktoken"
# In this order; either may lie there whole.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

# Published name -> ours.
_TEXT_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "kv_channels": "head_dim",
    "layer_norm_epsilon": "rms_norm_eps",
    "seq_length": "seq_length",
}
_OPTIONAL_TEXT_FIELDS = {
    "rotary_emb_base": "rotary_emb_base",
    "max_position_embeddings": "max_position_embeddings",
    "use_dynamic_ntk": "use_dynamic_ntk",
    "use_logn_attn": "use_logn_attn",
    "initializer_range": "initializer_range",
}
_AUDIO_FIELDS = {
    "n_mels": "num_mel_bins",
    "n_ctx": "max_source_positions",
    "n_state": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "output_dim": "output_dim",
}
# What the model is built for; another value would make another architecture.
_TEXT_FIXED = {"model_type": "qwen", "no_bias": True, "rotary_pct": 1.0, "tie_word_embeddings": False}
_AUDIO_FIXED = {"avg_pool": True, "add_audio_bos_eos_token": True}

# Words with their leading space or sign, single digits, signs, white space: Qwen's rule for cutting text up.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
AUDIO_TOKEN, AUDIO_BOS, AUDIO_EOS = "[[[AUDIO:modality]]]", "<audio>", "</audio>"
TEXT_SPECIALS = (PAD, TURN_START, TURN_END, *(f"<|extra_{index}|>" for index in range(205)))


def read_config(folder: Path) -> dict:
    """
    Raises:
        `ConversionError`: if there is no `config.json` of Qwen-Audio in the folder.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ConversionError(
            f"{str(folder)!r} has no config.json: download the whole repository of Qwen-Audio first."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConversionError(f"{str(path)!r} is no JSON: {error}.") from error
    if not isinstance(config, dict) or not isinstance(config.get("audio"), dict):
        raise ConversionError(f"{str(path)!r} is not Qwen-Audio's: it has no settings under 'audio'.")
    if not isinstance(config["audio"].get("audio_start_id"), int):
        raise ConversionError(f"{str(path)!r} lacks audio_start_id under 'audio'.")
    return config


def _translated(source: Mapping, names: Mapping[str, str], fixed: Mapping, where: str) -> dict:
    missing = sorted(name for name in names if source.get(name) is None)
    if missing:
        raise ConversionError(f"{where} lacks {', '.join(missing)}.")
    for name, value in fixed.items():
        if source.get(name, value) != value:
            raise ConversionError(f"{where} has {name}={source[name]!r}; only {value!r} is supported.")
    return {ours: source[name] for name, ours in names.items()}


def translate_config(source: Mapping, audio_token_id: int, special_ids: Mapping[str, int]) -> QwenAudioConfig:
    """
    Our configuration for a published one.

    Args:
        source: The public `config.json`.
        audio_token_id: The token whose places take audio rows, which that file does not tell.
        special_ids: Ids of `<|endoftext|>` and `<|im_end|>`.

    Raises:
        `ConversionError`: if a number is missing or the architecture is another.
    """
    text = _translated(source, {**_TEXT_FIELDS, "intermediate_size": "intermediate_size"}, _TEXT_FIXED, "config.json")
    audio = source["audio"]
    text |= {ours: source[name] for name, ours in _OPTIONAL_TEXT_FIELDS.items() if source.get(name) is not None}
    text["intermediate_size"] //= 2  # the published number counts both halves of the gated layer
    return QwenAudioConfig(
        **text,
        audio_config=_translated(audio, _AUDIO_FIELDS, _AUDIO_FIXED, "'audio' in config.json"),
        audio_token_id=audio_token_id,
        audio_bos_token_id=audio["audio_start_id"],
        audio_eos_token_id=audio["audio_start_id"] + 1,
        pad_token_id=special_ids[PAD],
        eos_token_id=special_ids[TURN_END],
    )


class _QwenConverter(TikTokenConverter):
    """transformers' converter without its need of tiktoken, which only reads the file for it."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        return read_ranks(Path(tiktoken_url))


def read_ranks(path: Path) -> dict[bytes, int]:
    """
    Byte strings of the vocabulary and their ranks, from lines of base64 and a number.

    Raises:
        `ConversionError`: if the file is missing or a line is another, or ranks are not 0, 1, 2 ...
    """
    if not path.is_file():
        raise ConversionError(f"{str(path)!r} is missing: it holds the tokenizer's vocabulary.")
    ranks = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise ConversionError(f"{str(path)!r}, line {number}: not 'base64 rank': {line[:60]!r}.") from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ConversionError(f"{str(path)!r}: the ranks are not 0 to {len(ranks) - 1}, each once.")
    return ranks


def audio_specials(count: int, names: str | os.PathLike | None = None) -> list[str]:
    """
    Special tokens from the audio token to the two tags.

    Args:
        count: How many there are; 3,314 in the published model.
        names:
            A text file with the tokens between, one a line in the order of their ids. They are the tags of Qwen-Audio's
            own speech tasks, which no detection prompt holds; without the file they get the names `<|audio_0|>` and so on.

    Raises:
        `ConversionError`: if the file has another number of names, or names that are taken.
    """
    between = [f"<|audio_{index}|>" for index in range(count - 3)]
    if names is not None:
        given = Path(names).read_text(encoding="utf-8").splitlines()
        if len(given) != len(between) or len({*given, *TEXT_SPECIALS, AUDIO_TOKEN}) != count - 2 + len(TEXT_SPECIALS):
            raise ConversionError(f"{os.fspath(names)!r} must hold {len(between)} different tokens, got {len(given)}.")
        between = given
    return [AUDIO_TOKEN, *between, AUDIO_BOS, AUDIO_EOS]


def convert_tokenizer(
    path: str | os.PathLike, audio_start_id: int, names: str | os.PathLike | None = None
) -> PreTrainedTokenizerFast:
    """
    The fast tokenizer of a `qwen.tiktoken`.

    Args:
        path: The vocabulary.
        audio_start_id: Id of `<audio>` by the configuration, from which the number of special tokens follows.
        names: See [`audio_specials`].

    Raises:
        `ConversionError`: if the vocabulary does not fit the configuration.
    """
    first = len(read_ranks(Path(path))) + len(TEXT_SPECIALS)
    if audio_start_id < first + 1:
        raise ConversionError(
            f"<audio> has the id {audio_start_id} by config.json, but {first} tokens and the audio token come before it: the "
            f"vocabulary {os.fspath(path)!r} is another model's."
        )
    specials = [*TEXT_SPECIALS, *audio_specials(audio_start_id + 2 - first, names)]
    backend = _QwenConverter(os.fspath(path), pattern=PATTERN, extra_special_tokens=specials).converted()
    backend.normalizer = NFC()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, eos_token=TURN_END)


def find_shards(folder: Path) -> list[Path]:
    """
    The weight files of a repository, by its index where there is one.

    Raises:
        `ConversionError`: if there are none, or the index names files that are not there.
    """
    for name in WEIGHT_FILES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            missing = [shard for shard in shards if os.path.basename(shard) != shard or not (folder / shard).is_file()]
            if missing:
                raise ConversionError(f"{str(index)!r} names files that are not there: {listed(missing)}.")
            return [folder / shard for shard in shards]
        if (folder / name).is_file():
            return [folder / name]
    raise ConversionError(
        f"{str(folder)!r} has no weights: neither {' nor '.join(WEIGHT_FILES)}, whole or with an index."
    )


def _read_shard(path: Path, shapes: Mapping[str, torch.Size], seen: set[str]) -> dict[str, torch.Tensor]:
    """The tensors of a file, all of which have a place that none before took; their names join `seen`."""
    state = read_checkpoint(path)
    if strangers := sorted(state.keys() - shapes.keys()):
        raise ConversionError(f"{path.name} is another architecture's; unknown tensors: {listed(strangers)}.")
    if twice := sorted(state.keys() & seen):
        raise ConversionError(f"{path.name} holds tensors of an earlier file again: {listed(twice)}.")
    wrong = [
        f"{name}: {tuple(value.shape)} instead of {tuple(shapes[name])}"
        for name, value in state.items()
        if value.shape != shapes[name]
    ]
    if wrong:
        raise ConversionError(f"{path.name} does not fit config.json: {listed(wrong)}.")
    seen.update(state)
    return state


def _write_shard(
    state: dict[str, torch.Tensor], path: Path, dtype: torch.dtype | None
) -> dict[str, tuple[torch.dtype, int]]:
    """Writes one file and empties `state` on the way; each tensor's type and bytes."""
    # Pickled tensors may share memory, which safetensors refuses.
    cast = {name: state.pop(name).to(dtype=dtype).clone(memory_format=torch.contiguous_format) for name in list(state)}
    save_file(cast, path, metadata={"format": "pt"})
    return {name: (value.dtype, value.nbytes) for name, value in cast.items()}


def write_shards(
    shards: list[Path], model: torch.nn.Module, folder: Path, dtype: torch.dtype | None, report: ConversionReport
) -> torch.dtype:
    """
    Writes the weights to `folder` as safetensors with an index, one file for each that is read, and returns their type.

    Args:
        model: On the meta device; tells names and shapes.
        dtype: What the weights are cast to; as they are where it is `None`.

    Raises:
        `ConversionError`: if any tensor is missing, unknown, double or of another shape, or types are mixed.
    """
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    weight_map, written, seen = {}, {}, set()
    for number, path in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = _write_shard(_read_shard(path, shapes, seen), folder / file, dtype)
        weight_map |= dict.fromkeys(tensors, file)
        written |= tensors
    if missing := sorted(shapes.keys() - seen):
        raise ConversionError(f"The weights are incomplete; missing: {listed(missing)}.")
    types = {written[name][0] for name, _ in model.named_parameters()}  # the position table may have one of its own
    if len(types) != 1:
        raise ConversionError(f"The weights are of several types, {sorted(map(str, types))}: choose one with --dtype.")
    index = {"metadata": {"total_size": sum(size for _, size in written.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    report.mapped = {name: name for name in weight_map}
    return types.pop()


def convert_qwen_audio(
    source: str | os.PathLike,
    folder: str | os.PathLike,
    dtype: torch.dtype | None = None,
    special_tokens: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> ConversionReport:
    """
    Converts a downloaded `Qwen/Qwen-Audio` or `Qwen/Qwen-Audio-Chat`, tokenizer and processor included.

    Args:
        source: A folder with `config.json`, the weights and `qwen.tiktoken`.
        folder: Where to write; it appears whole or not at all.
        dtype: What the weights are cast to; as they are by default.
        special_tokens: See [`audio_specials`].
        overwrite: Whether `folder` may be replaced.

    Raises:
        `ConversionError`: if anything is missing, unknown or does not fit.
    """
    source = Path(source)
    if not source.is_dir():
        raise ConversionError(
            f"{str(source)!r} is not a folder: download one first, for example with `hf download Qwen/Qwen-Audio-Chat "
            "--local-dir Qwen-Audio-Chat`."
        )
    published, report = read_config(source), ConversionReport(source=source.name, model=MODEL_NAME)
    shards = find_shards(source)
    with new_folder(folder, overwrite) as staged:
        tokenizer = convert_tokenizer(source / TOKENIZER_FILE, published["audio"]["audio_start_id"], special_tokens)
        ids = tokenizer.get_vocab()
        config = translate_config(published, ids[AUDIO_TOKEN], ids)
        with torch.device("meta"):
            model = QwenAudioForConditionalGeneration(config)
        config.dtype = write_shards(shards, model, staged, dtype, report)
        report.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        _note(report, published, config.dtype, special_tokens)
        _save_rest(model, tokenizer, ids, staged)
        report.save(staged)
    return report


def _note(report: ConversionReport, published: Mapping, dtype: torch.dtype, special_tokens: str | os.PathLike | None):
    report.notes.append(f"Weights are {str(dtype).removeprefix('torch.')}, under the published names.")
    if special_tokens is None:
        between = published["audio"]["audio_start_id"]
        report.notes.append(
            f"Special tokens between the audio token and <audio> (id {between}), which mark Qwen-Audio's own speech tasks, have "
            "made-up names: give theirs with --special-tokens if your prompts hold them."
        )


def _save_rest(
    model: QwenAudioForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, ids: Mapping, folder: Path
):
    """Everything beside the weights: configuration, code, processor, and how generation ends."""
    model.config.architectures = [type(model).__name__]
    model.config.auto_map = dict(AUTO_MAP)
    custom_object_save(model, folder, config=model.config)
    model.config.save_pretrained(folder)
    GenerationConfig(pad_token_id=ids[PAD], eos_token_id=[ids[TURN_END], ids[PAD]]).save_pretrained(folder)
    audio = model.config.audio_config
    extractor = WhisperFeatureExtractor(feature_size=audio.num_mel_bins, chunk_length=audio.max_source_positions // 50)
    QwenAudioProcessor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)


__all__ = ["convert_qwen_audio", "convert_tokenizer", "translate_config"]
