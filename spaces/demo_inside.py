"""Views into a SASTNet tracer: where its decoders fail to rebuild the sound, and which meaning each moment of sound asks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from spooftrace.audio import SAMPLING_RATE
from spooftrace.modeling import SASTNetForAudioClassification
from spooftrace.spaces.demo_pictures import heat_map
from spooftrace.spaces.demo_views import escaped
from spooftrace.spaces.demo_words import CLASSES, TASKS, stretch
from spooftrace.tracer import Tracer, TracingModel


ATTENTIONS = {
    "acoustic_to_semantic": "What sound asks of meaning",
    "semantic_to_acoustic": "What meaning asks of sound",
    "fusion": "What both ask together",
}


@dataclass(frozen=True)
class Inside:
    """
    What a SASTNet model did with one stretch of sound.

    Args:
        task: that it answers.
        decoders: the class of each decoder, or one empty name.
        errors: mean squared error of each decoder, `[decoders, features, steps]`.
        attentions: by transformer, the mean over its layers and heads, `[meaning, sound]` in steps of time; empty where the
            model has no semantics.
    """

    task: str
    decoders: Sequence[str]
    errors: np.ndarray
    attentions: dict[str, np.ndarray]


def can_look_inside(tracer: Tracer | None) -> bool:
    """Whether any of its models is a SASTNet."""
    return tracer is not None and any(isinstance(part.model, SASTNetForAudioClassification) for part in tracer.models)


def look_inside(tracer: Tracer, samples: np.ndarray) -> list[Inside]:
    """
    Runs every SASTNet of a tracer on one stretch of sound.

    Args:
        tracer: with at least one.
        samples: float32 `[num_samples]` at 16 kHz; the feature extractor cuts or repeats them to its window.
    """
    parts = [part for part in tracer.models if isinstance(part.model, SASTNetForAudioClassification)]
    return [_inside(part, samples, tracer.device) for part in parts]


def _inside(part: TracingModel, samples: np.ndarray, device: torch.device) -> Inside:
    config = part.model.config
    inputs = part.feature_extractor([samples], sampling_rate=SAMPLING_RATE, return_tensors="pt").to(device)
    with torch.inference_mode():
        output = part.model(**inputs, output_reconstruction_errors=True, output_attentions=config.use_semantics)
    features = config.grid_size[1]
    errors = output.reconstruction_errors[0].float().cpu().numpy()  # (decoders, steps * features)
    attentions = {
        name: _by_time(name, values[0].mean(dim=(0, 1)).float().cpu().numpy(), features, config.keep_cls_token)
        for name, values in (output.attentions or {}).items()
    }
    labels = [config.id2label[index] for index in range(config.num_labels)]
    decoders = labels if len(errors) == len(labels) else [""]
    return Inside(config.task, decoders, errors.reshape(len(errors), -1, features).transpose(0, 2, 1), attentions)


def _by_time(name: str, attention: np.ndarray, features: int, has_class_token: bool) -> np.ndarray:
    """`[queries, keys]` -> `[meaning, sound]`: without the class token, and averaged over the features of a step."""
    turned = attention if name == "semantic_to_acoustic" else attention.T
    sound = turned[:, 1:] if has_class_token else turned
    return sound.reshape(len(sound), -1, features).mean(axis=2)


def inside_views(found: Sequence[Inside], start: float, end: float) -> str:
    """
    The views as HTML.

    Args:
        found: of each model.
        start, end: of the stretch of sound in the clip, in seconds.
    """
    parts = "".join(_views(inside) for inside in found)
    return (
        f'<section class="st-card"><h2>Inside the tracer, {stretch(start, end)}</h2><p class="st-quiet">Light is much, dark is '
        "little, each picture on a scale of its own. Time runs to the right; upwards lie the features of the sound or, where "
        f"meaning takes part, its time. These are what the network computed on its way, not a proof of anything.</p>{parts}"
        "</section>"
    )


def _views(inside: Inside) -> str:
    names = CLASSES.get(inside.task, {})
    pictures = [
        _figure(
            error,
            f"Where the decoder {f'for “{names.get(label, label)}” ' if label else ''}fails to rebuild the sound",
        )
        for label, error in zip(inside.decoders, inside.errors, strict=True)
    ]
    pictures += [
        _figure(inside.attentions[name], words) for name, words in ATTENTIONS.items() if name in inside.attentions
    ]
    return f'<h3>{escaped(TASKS.get(inside.task, inside.task))}</h3><div class="st-views">{"".join(pictures)}</div>'


def _figure(values: np.ndarray, words: str) -> str:
    caption = escaped(words)
    return f'<figure><img alt="{caption}" src="{heat_map(values)}"><figcaption>{caption}</figcaption></figure>'
