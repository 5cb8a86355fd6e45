"""Augmentation of whole batches where the model is: noise, rooms, telephones, codecs and speed.

Each clip has a seed of its own, from which all that happens to it follows. So it comes out the same in any batch, on any
number of processes, and after a resumption; on another kind of device made-up noise differs, as torch's generators do. Every effect draws from a stream of its own: switching one on leaves the others as they were.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from spooftrace.audio import SAMPLING_RATE, find_audio, load_audio
from spooftrace.trainers import degradations
from spooftrace.trainers.codec_round_trip import CODECS, check_codec, codec_round_trip


EFFECTS = ("speed", "reverberation", "noise", "telephone", "codec")  # in the order of nature
RANGES = ("speed_percent", "reverberation_time", "direct_ratio", "snr", "slope", "compression")


@dataclass(frozen=True)
class DeviceAugmentationConfig:
    """
    How many clips each effect alters, none by default, and how strongly.

    Args:
        speed: share of clips played at another speed.
        min_speed_percent, max_speed_percent: of the old speed, whole numbers.
        reverberation: share of clips that are put into a room.
        min_reverberation_time, max_reverberation_time: of made-up rooms, in seconds.
        min_direct_ratio, max_direct_ratio: the direct path over the rest, of made-up rooms, in dB.
        response_folder: recorded impulse responses to use instead.
        noise: share of clips that get noise.
        min_snr, max_snr: signal-to-noise ratio, in dB.
        min_slope, max_slope: of made-up noise, whose power falls as f ** -slope.
        noise_folder: recorded noise to use instead. All of it is held in memory, 230 MB an hour.
        telephone: share of clips that go over a telephone line, under either companding law.
        codec: share of clips that go through a codec, on the CPU: up to 0.2 s for four seconds of speech.
        codecs: names of `codec_round_trip.CODECS`, among which each clip draws one.
        min_compression, max_compression: of MP3, Vorbis and Opus, in [0, 1).

    Raises:
        ValueError: for a share outside [0, 1], a range whose ends are not in order, or what no effect can work with.
    """

    speed: float = 0.0
    min_speed_percent: int = 90
    max_speed_percent: int = 110
    reverberation: float = 0.0
    min_reverberation_time: float = 0.1
    max_reverberation_time: float = 0.8
    min_direct_ratio: float = -3.0
    max_direct_ratio: float = 12.0
    response_folder: str | None = None
    noise: float = 0.0
    min_snr: float = 5.0
    max_snr: float = 30.0
    min_slope: float = 0.0
    max_slope: float = 2.0
    noise_folder: str | None = None
    telephone: float = 0.0
    codec: float = 0.0
    codecs: Sequence[str] = tuple(CODECS)
    min_compression: float = 0.3
    max_compression: float = 0.95

    def __post_init__(self):
        for name in EFFECTS:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is a share of clips, 0 to 1, got {getattr(self, name)!r}.")
        for name in RANGES:
            low, high = self.range_of(name)
            if not low <= high:
                raise ValueError(f"`min_{name}` is at most `max_{name}`, got {low!r} and {high!r}.")
        if not self.codecs:
            raise ValueError("`codecs` names none; to leave codecs out, set `codec` to 0.")
        for codec in self.codecs:
            check_codec(codec)
        if not 0 <= self.min_compression <= self.max_compression < 1:
            raise ValueError(f"compression lies in [0, 1), got {self.range_of('compression')}.")
        percents = self.range_of("speed_percent")
        if not all(isinstance(percent, int) and percent > 0 for percent in percents):
            raise ValueError(f"speeds are whole numbers of percent above 0, got {percents}.")
        if self.min_reverberation_time <= 0:
            raise ValueError(f"`min_reverberation_time` is above 0 s, got {self.min_reverberation_time!r}.")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "DeviceAugmentationConfig":
        """
        From a mapping, as recipes hold it.

        Raises:
            ValueError: for unknown names, too.
        """
        known = [field.name for field in fields(cls)]
        unknown = ", ".join(repr(name) for name in options if name not in known)
        if unknown:
            raise ValueError(f"on-device augmentation has no {unknown}; it has {', '.join(known)}.")
        return cls(**options)

    def range_of(self, name: str) -> tuple[float, float]:
        return getattr(self, f"min_{name}"), getattr(self, f"max_{name}")


class DeviceAugmentation:
    """
    Alters batches of clips as a [`DeviceAugmentationConfig`] says.

    Args:
        config: see there.
        noises: noise to use instead of what the configuration names, each `[any_length]` at 16 kHz, or one tensor of all.
        responses: impulse responses to use instead, likewise.

    Raises:
        ImportError: without torchaudio.
        AudioError: for a folder without audio, or with files that cannot be read.
        ValueError: for impulse responses that are silent.
    """

    def __init__(
        self,
        config: DeviceAugmentationConfig,
        *,
        noises: Sequence[torch.Tensor] | None = None,
        responses: Sequence[torch.Tensor] | None = None,
    ):
        degradations.require_torchaudio()
        self.config = config
        noise_folder = config.noise_folder if config.noise else None
        response_folder = config.response_folder if config.reverberation else None
        self.noises = _bank(noises, noise_folder)
        self.responses = [_aligned(response) for response in _bank(responses, response_folder)]

    def __call__(self, waveforms: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """
        Args:
            waveforms: `[batch, num_samples]`, finite, in [-1, 1], on any device.
            seeds: of each clip, from 0 on.

        Returns:
            float32 `[batch, num_samples]` on the same device. A clip that an effect lifts above 1 is divided by its peak.

        Raises:
            ValueError: for another shape, or another number of seeds.
        """
        if waveforms.ndim != 2 or not waveforms.is_floating_point():
            kind = f"{waveforms.dtype} {tuple(waveforms.shape)}"
            raise ValueError(f"`waveforms` are floating-point [batch, num_samples], got {kind}.")
        if len(seeds) != len(waveforms):
            raise ValueError(f"{len(waveforms)} clips need as many seeds, got {len(seeds)}.")
        output = waveforms.detach().to(torch.float32, copy=True)
        if not output.numel():
            return output
        # Clip by clip: batched transforms round otherwise than single ones, and a code would make steps of that.
        with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
            for waveform, seed in zip(output, seeds, strict=True):
                for number, name in enumerate(EFFECTS):
                    rng = np.random.default_rng([int(seed), number])
                    if rng.random() < getattr(self.config, name):
                        waveform.copy_(degradations.limited(getattr(self, f"_{name}")(waveform, rng)))
        return output

    def _draw(self, name: str, rng: np.random.Generator) -> float:
        return float(rng.uniform(*self.config.range_of(name)))

    def _speed(self, waveform: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        return degradations.faster(waveform, int(rng.integers(*self.config.range_of("speed_percent"), endpoint=True)))

    def _reverberation(self, waveform: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        if self.responses:
            response = self.responses[int(rng.integers(len(self.responses)))].to(waveform.device)
        else:
            time, ratio = self._draw("reverberation_time", rng), self._draw("direct_ratio", rng)
            noise = _white(rng, max(2, int(time * SAMPLING_RATE)), waveform.device)
            response = degradations.decaying(noise, time, ratio)
        return degradations.reverberant(waveform, response)

    def _noise(self, waveform: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        snr = self._draw("snr", rng)
        if self.noises:
            noise = self._excerpt(rng, len(waveform)).to(waveform.device)
        else:
            noise = degradations.coloured(_white(rng, len(waveform), waveform.device), self._draw("slope", rng))
        return degradations.with_noise(waveform, noise, snr)

    def _excerpt(self, rng: np.random.Generator, num_samples: int) -> torch.Tensor:
        """From a random place of a random noise, which is repeated where it is too short."""
        noise = self.noises[int(rng.integers(len(self.noises)))]
        start = int(rng.integers(max(1, len(noise) - num_samples + 1)))
        return noise[torch.arange(start, start + num_samples) % len(noise)]

    def _telephone(self, waveform: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        return degradations.telephone(waveform, ("mu", "a")[int(rng.integers(2))])

    def _codec(self, waveform: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        codec = self.config.codecs[int(rng.integers(len(self.config.codecs)))]
        compression = self._draw("compression", rng) if CODECS[codec].is_variable else None
        altered = codec_round_trip(waveform.cpu().numpy(), codec, compression=compression)
        return torch.from_numpy(altered).to(waveform.device)


def _white(rng: np.random.Generator, length: int, device: torch.device) -> torch.Tensor:
    """Gaussian noise by a generator of the device, `[length]`."""
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
    return torch.randn(length, generator=generator, device=device)


def _bank(clips: Sequence[torch.Tensor] | None, folder: str | None) -> list[torch.Tensor]:
    if clips is None and folder is not None:
        clips = [torch.from_numpy(load_audio(path)) for path in find_audio(folder)]
    clips = [] if clips is None else [torch.as_tensor(clip, dtype=torch.float32).cpu() for clip in clips]
    if any(clip.ndim != 1 or not len(clip) for clip in clips):
        raise ValueError("noises and impulse responses are mono and not empty, [num_samples].")
    return clips


def _aligned(response: torch.Tensor) -> torch.Tensor:
    """From its largest value on, and divided by it, so that speech keeps its place and loudness."""
    peak = int(response.abs().argmax())
    if response[peak] == 0:
        raise ValueError("an impulse response is silent.")
    return response[peak:] / response[peak]
