"""Several wordings of the question to an audio language model, asked about the same clips in one pass.

A wording is a prompt and the two words that may answer it. The audio is read and encoded once per clip; every prompt then
costs one pass through the language model, and every further pair of words two numbers. What comes of it is compared in
[`spooftrace.prompt_report`].
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, PreTrainedConfig, ProcessorMixin

from spooftrace.clip_windows import Clip, ClipWindows, WindowModel
from spooftrace.detector import AGGREGATIONS, Detector
from spooftrace.modeling import AudioLLMDetectorConfig, AudioLLMForAudioClassification
from spooftrace.modeling.audio_llm_prompts import find_label_tokens, find_prompt_ids, make_input_ids
from spooftrace.modeling.configuration_audio_llm import LABELS
from spooftrace.results import Failure


@dataclass(frozen=True)
class Wording:
    """
    A question and its answers, as they are written. What is `None` is the model's own.

    Args:
        prompt: the question.
        label_words: the answers for bona fide speech and for a spoof, one token each.
        system_prompt: what stands before the question.
    """

    prompt: str | None = None
    label_words: tuple[str, str] | None = None
    system_prompt: str | None = None


@dataclass(frozen=True)
class Question:
    """
    A wording as the model reads it.

    Args:
        prompt, system_prompt: for reading.
        label_words: of bona fide speech and of a spoof, for reading.
        before, after: token ids in front of the audio and behind it.
        label_ids: of the answers, bona fide first.
    """

    prompt: str
    system_prompt: str | None
    label_words: tuple[str, str]
    before: tuple[int, ...]
    after: tuple[int, ...]
    label_ids: tuple[int, int]


@dataclass(frozen=True)
class Answers:
    """
    What a model says about one clip.

    Args:
        path: the file as it was named.
        scores: log-odds of bona fide for each question, `(questions,)`; `None` where the samples are not finite.
        windows: into which the clip was cut.
    """

    path: str
    scores: np.ndarray | None
    windows: int


def own_question(config: PreTrainedConfig) -> Question:
    """What a detector asks by itself, from its configuration alone."""
    words = tuple(config.label_words[label] for label in LABELS)
    before, after = tuple(config.prompt_ids_before), tuple(config.prompt_ids_after)
    return Question(config.prompt, config.system_prompt, words, before, after, tuple(config.label_ids))


def read_wordings(path: str | os.PathLike) -> list[Wording]:
    """
    The wordings of a YAML or JSON file: a list of entries with `prompt`, `label_words` and `system_prompt`, each optional.
    `label_words` is a pair, bona fide first, or a mapping with the keys `bonafide` and `spoof`.

    Raises:
        ValueError: for a file of anything else; names the entry.
        OSError: where it cannot be read.
    """
    import yaml

    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} holds no list of wordings, such as `- prompt: Is this speech genuine?`.")
    return [_wording(entry, f"{path}, entry {number}") for number, entry in enumerate(entries, start=1)]


def _wording(entry: Any, place: str) -> Wording:
    if not isinstance(entry, Mapping) or set(entry) - {"prompt", "label_words", "system_prompt"}:
        raise ValueError(f"{place}: has the keys prompt, label_words and system_prompt, each optional, got {entry!r}.")
    for name in ("prompt", "system_prompt"):
        if entry.get(name) is not None and not _is_text(entry[name]):
            raise ValueError(f"{place}: `{name}` is a text, got {entry[name]!r}; quote it.")
    words = entry.get("label_words")
    if isinstance(words, Mapping) and set(words) == set(LABELS):
        words = [words[label] for label in LABELS]
    if words is not None and not (isinstance(words, list) and len(words) == 2 and all(map(_is_text, words))):
        raise ValueError(
            f"{place}: `label_words` are two texts, bona fide first, got {words!r}; quote words like 'Yes'."
        )
    return Wording(entry.get("prompt"), words and tuple(words), entry.get("system_prompt"))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def find_questions(
    config: PreTrainedConfig, wordings: Iterable[Wording], processor: ProcessorMixin | str | os.PathLike | None = None
) -> list[Question]:
    """
    The model's own question, and one for each wording; each question once.

    Args:
        config: of the detector.
        wordings: what else to ask.
        processor: of the base model, or where it lies; by default that of the base model which the configuration names.

    Raises:
        ValueError: for label words that are not single tokens, a prompt without one audio slot, a processor of another
            model, and a detector that names no base model.
        OSError: where the processor cannot be had.
    """
    own = own_question(config)
    if not isinstance(processor, ProcessorMixin):
        processor = load_processor(config, processor)
    _check_processor(processor, own)
    questions = (_question(processor, wording, own) for wording in wordings)
    return list(dict.fromkeys((own, *questions)))


def load_processor(config: PreTrainedConfig, name_or_path: str | os.PathLike | None = None) -> ProcessorMixin:
    """
    The processor that was published with a detector's base model, or the one of another name.

    Raises:
        ValueError: for a detector that names no base model, and a repository without a processor.
        OSError: where it cannot be had.
    """
    if name_or_path is None and config.base_model_name_or_path is None:
        raise ValueError(
            "the detector names no base model whose tokenizer and chat template other wordings need: pass its processor "
            "(`--processor` on the command line), such as the model it was merged from."
        )
    name, revision = name_or_path, "main"
    if name is None:
        name, revision = config.base_model_name_or_path, config.base_revision or "main"
    try:
        processor = AutoProcessor.from_pretrained(name, revision=revision)
    except OSError as error:
        raise OSError(f"the processor of {str(name)!r} cannot be had: {error}") from error
    if getattr(processor, "tokenizer", None) is None:
        raise ValueError(
            f"{str(name)!r} holds a {type(processor).__name__}, which is no processor of an audio language model."
        )
    return processor


def _check_processor(processor: ProcessorMixin, own: Question) -> None:
    before, after = find_prompt_ids(processor, own.prompt, own.system_prompt)
    if (tuple(before), tuple(after)) != (own.before, own.after):
        raise ValueError(
            "the processor is not that of the detector's base model: it writes the detector's own prompt in other tokens."
        )


def _question(processor: ProcessorMixin, wording: Wording, own: Question) -> Question:
    before, after, prompt, system_prompt = own.before, own.after, own.prompt, own.system_prompt
    if wording.prompt is not None or wording.system_prompt is not None:
        prompt = own.prompt if wording.prompt is None else wording.prompt
        system_prompt = own.system_prompt if wording.system_prompt is None else wording.system_prompt
        before, after = map(tuple, find_prompt_ids(processor, prompt, system_prompt))
    words, label_ids = own.label_words, own.label_ids
    if wording.label_words is not None:
        words = wording.label_words
        found = find_label_tokens(processor.tokenizer, dict(zip(LABELS, words, strict=True)))
        label_ids = tuple(found[label] for label in LABELS)
    return Question(prompt, system_prompt, words, before, after, label_ids)


def ask(
    model: AudioLLMForAudioClassification,
    questions: Sequence[Question],
    input_features: torch.Tensor,
    feature_attention_mask: torch.Tensor,
) -> torch.Tensor:
    """
    Log-odds of bona fide for every clip and question, in float64 on the CPU: `(batch_size, questions)`.

    Args:
        model: whose encoder runs once, and whose decoder once for each prompt.
        questions: those with the same prompt share a pass.
        input_features: `(batch_size, num_mel_bins, num_frames)`.
        feature_attention_mask: `(batch_size, num_frames)`.
    """
    config = model.config
    embeds, lengths = model.encode_audio(input_features, feature_attention_mask)
    states: dict[tuple, torch.Tensor] = {}
    columns = []
    for question in questions:
        key = question.before, question.after
        if key not in states:
            batch = make_input_ids(*key, lengths.tolist(), config.audio_token_id, config.pad_token_id)
            hidden = model.decode(embeds, **{name: ids.to(model.device) for name, ids in batch.items()})
            rows = torch.arange(len(lengths), device=hidden.device)
            states[key] = hidden[rows, len(question.before) + lengths.to(hidden.device) + len(question.after) - 1]
        logits = model.word_logits(states[key], question.label_ids).double()
        columns.append(logits[:, 0] - logits[:, 1])
    return torch.stack(columns, dim=1).cpu()


class PromptStudy(ClipWindows[np.ndarray, Answers]):
    """
    Asks several questions about clips of any length, in the windows and batches that the detector itself would use.

    Args:
        detector: around an audio language model; its own question is answered as it scores.
        questions: of [`find_questions`].

    Raises:
        ValueError: for a detector of another kind.
    """

    def __init__(self, detector: Detector, questions: Sequence[Question]):
        check_kind(detector)
        self._network = WindowModel(detector.model, detector.feature_extractor, device=detector.device)
        super().__init__(
            window_samples=detector.window_samples,
            batch_size=detector.batch_size,
            limits=detector.limits,
            pool=self._network.pool,
        )
        self.questions = list(questions)
        self._aggregate = AGGREGATIONS[detector.aggregation]

    def ask(self, sources: Iterable[Any]) -> Iterator[Answers | Failure]:
        """The answers about each clip, in the order of the sources, or why there are none."""
        return self._answer_all(sources, None)

    def _outputs(self, windows: list[np.ndarray]) -> list[np.ndarray]:
        model = self._network.model
        return list(self._network(windows, lambda **inputs: ask(model, self.questions, **inputs)).numpy())

    def _flaw(self, output: np.ndarray) -> str | None:
        return None if np.isfinite(output).all() else "the model's score is not finite"

    def _answer(self, clip: Clip[np.ndarray], reason: str | None, seconds: float) -> Answers:
        if not clip.outputs:
            return Answers(clip.path, None, 0)
        scores = [self._aggregate([float(value) for value in column]) for column in zip(*clip.outputs, strict=True)]
        return Answers(clip.path, np.array(scores), len(clip.outputs))


def check_kind(detector: Detector) -> None:
    """
    Raises:
        ValueError: for a detector that is asked nothing.
    """
    if detector.model.config.model_type != AudioLLMDetectorConfig.model_type:
        raise ValueError(
            f"{detector.model_info['name']} is a {detector.model.config.model_type!r} detector, which has no prompt; this is "
            "for detectors around an audio language model."
        )
