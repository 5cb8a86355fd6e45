"""What is said, from a frozen Whisper encoder (Radford et al. 2022, arXiv 2212.04356), computed from the waveform.

Whisper hears 30 s, most of them padding here, and only its first steps are used: the last layer answers for those alone.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.audio_utils import mel_filter_bank
from transformers.models.whisper.modeling_whisper import WhisperEncoder


N_FFT, HOP = 400, 160
ENERGY_FLOOR = 1e-10
DYNAMIC_RANGE = 8.0  # in powers of ten below the loudest


class WhisperLogMel(nn.Module):
    """Waveform -> Whisper's log-mel spectrogram, padded with silence to its full length."""

    def __init__(self, num_bands: int, sampling_rate: int):
        super().__init__()
        self.num_bands, self.sampling_rate = num_bands, sampling_rate
        self.register_buffer("filters", self.compute_filters(), persistent=False)
        self.register_buffer("window", self.compute_window(), persistent=False)

    def compute_filters(self) -> torch.Tensor:
        """Slaney's mel filters, `(num_bands, n_fft // 2 + 1)`."""
        filters = mel_filter_bank(
            num_frequency_bins=N_FFT // 2 + 1,
            num_mel_filters=self.num_bands,
            min_frequency=0.0,
            max_frequency=self.sampling_rate / 2,
            sampling_rate=self.sampling_rate,
            norm="slaney",
            mel_scale="slaney",
        )
        return torch.from_numpy(filters.T.copy()).float()

    def compute_window(self) -> torch.Tensor:
        return torch.hann_window(N_FFT, device="cpu")

    def forward(self, input_values: torch.Tensor, num_frames: int) -> torch.Tensor:
        """`(batch, num_samples)` -> `(batch, num_bands, num_frames)`, in single precision or better whatever the weights have"""
        precision = torch.promote_types(self.filters.dtype, torch.float32)
        filters, window = self.filters.to(precision), self.window.to(precision)
        padded = F.pad(input_values[:, : num_frames * HOP].to(precision), (0, N_FFT))
        with torch.autocast(input_values.device.type, enabled=False):
            spectrum = torch.stft(padded, N_FFT, HOP, window=window, return_complex=True)
            energies = filters @ spectrum.abs().square()  # (batch, num_bands, frames); beyond them, silence
        energies = F.pad(energies, (0, max(num_frames - energies.shape[2], 0)))[..., :num_frames]
        features = energies.clamp(min=ENERGY_FLOOR).log10()
        features = features.maximum(features.amax(dim=(1, 2), keepdim=True) - DYNAMIC_RANGE)
        return features / 4 + 1


class WhisperSemantics(nn.Module):
    """Waveform -> the first steps of Whisper's encoder, averaged in pairs; never trained."""

    def __init__(self, config):
        super().__init__()
        self.encoder = WhisperEncoder(config.whisper_config)
        self.log_mel = WhisperLogMel(config.whisper_config.num_mel_bins, config.sampling_rate)
        self.num_steps = config.semantic_frames
        self.context = config.whisper_context or config.whisper_config.max_source_positions
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "WhisperSemantics":
        """Frozen is without dropout too: what is kept across epochs is what would be computed."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """`(batch, num_samples)` -> `(batch, semantic_frames // 2, dim)`, one step every 40 ms"""
        encoder = self.encoder
        features = self.log_mel(input_values, 2 * self.context).to(encoder.conv1.weight.dtype)
        features = F.gelu(encoder.conv2(F.gelu(encoder.conv1(features))))
        hidden_states = features.transpose(1, 2) + encoder.embed_positions.weight[: self.context]
        for layer in encoder.layers[:-1]:
            hidden_states = layer(hidden_states, None)
        hidden_states = encoder.layer_norm(self._last_layer(hidden_states))
        return F.avg_pool1d(hidden_states.transpose(1, 2), 2).transpose(1, 2)

    def _last_layer(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, context, dim)` -> `(batch, semantic_frames, dim)`: all steps are asked, the first ones ask"""
        layer = self.encoder.layers[-1]
        attention, everything = layer.self_attn, layer.self_attn_layer_norm(hidden_states)
        hidden_states = hidden_states[:, : self.num_steps]
        query, key, value = (
            projection(states).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
            for projection, states in (
                (attention.q_proj, everything[:, : self.num_steps]),
                (attention.k_proj, everything),
                (attention.v_proj, everything),
            )
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        hidden_states = hidden_states + attention.out_proj(attended)
        expanded = layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden_states)))
        return hidden_states + layer.fc2(expanded)
