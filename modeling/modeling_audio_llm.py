"""A speech deepfake detector made of any audio language model: a clip and a question in, two words' logits out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers.utils import ModelOutput

from .audio_llm_prompts import make_input_ids
from .audio_tokens import num_audio_tokens
from .modeling_audio_llm_base import AudioLLMPreTrainedModel


@dataclass
class AudioLLMOutput(ModelOutput):
    """
    Output of [`AudioLLMForAudioClassification`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned with `labels` or `target_ids`):
            Mean cross-entropy over the clips, or over the target tokens.
        logits (`torch.FloatTensor` of shape `(batch_size, 2)`):
            The language model's logits of the two label words where the answer begins, in float32, bona fide first. Their
            difference is the score of a clip: the log-odds of the two words, higher for genuine speech.
        target_losses (`torch.FloatTensor` of shape `(batch_size,)`, *optional*, returned with `target_ids`):
            Cross-entropy summed over each clip's target tokens, for a mean over more than one batch.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    target_losses: torch.FloatTensor | None = None


class AudioLLMForAudioClassification(AudioLLMPreTrainedModel):
    """Log-mel frames -> audio encoder -> language model, asked a fixed question -> logits of the words that answer it."""

    def encode_audio(
        self, input_features: torch.Tensor, feature_attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        What the language model hears. Worth keeping where the encoder is not trained, or several questions are asked.

        Args:
            input_features (`torch.FloatTensor` of shape `(batch_size, num_mel_bins, num_frames)`): Padded log-mel frames.
            feature_attention_mask (`torch.LongTensor` of shape `(batch_size, num_frames)`): 1 for frames of the clips.

        Returns:
            The embeddings of all clips one after the other, `(total, hidden_size)`, and how many each clip has,
            `(batch_size,)`.

        Raises:
            `ValueError`: without a mask, which alone tells the clips from their padding; for a clip that is too long.
        """
        if feature_attention_mask is None:
            raise ValueError(
                "`feature_attention_mask` is needed: without it the padding would be scored as sound. "
                "AudioLLMFeatureExtractor makes it."
            )
        audio_embeds = self.parts.encode(self.backbone, input_features, feature_attention_mask)
        return audio_embeds, num_audio_tokens(feature_attention_mask.sum(-1))

    def prepare_inputs(
        self,
        audio_lengths: Sequence[int] | torch.Tensor,
        answers: Sequence[Sequence[int]] | None = None,
        padding_side: str = "right",
    ) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` and, with answers, `target_ids` for this prompt; see [`make_input_ids`]."""
        config = self.config
        batch = make_input_ids(
            config.prompt_ids_before,
            config.prompt_ids_after,
            audio_lengths,
            config.audio_token_id,
            config.pad_token_id,
            answers,
            padding_side,
        )
        return {name: value.to(self.device) for name, value in batch.items()}

    def decode(
        self, audio_embeds: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """
        Hidden states of the language model before its head, of shape `(batch_size, length, hidden_size)`.

        Args:
            audio_embeds (`torch.FloatTensor` of shape `(total, hidden_size)`): Of [`encode_audio`].
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): With an audio token for each of them.
            attention_mask (`torch.LongTensor` of shape `(batch_size, length)`): 0 for padding, on either side.

        Raises:
            `ValueError`: where audio tokens and embeddings differ in number.
        """
        slots = int((input_ids == self.config.audio_token_id).sum())
        if slots != len(audio_embeds):
            raise ValueError(f"the prompts have {slots} audio tokens for {len(audio_embeds)} audio embeddings.")
        decoder = self.backbone.get_submodule(self.parts.decoder)
        return decoder(
            inputs_embeds=self.parts.embed(self.backbone, input_ids, audio_embeds),
            attention_mask=attention_mask,
            position_ids=(attention_mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state

    def word_logits(self, hidden_states: torch.Tensor, token_ids: Sequence[int]) -> torch.Tensor:
        """Logits of a few tokens in float32: `(..., hidden_size)` -> `(..., len(token_ids))`."""
        head = self.backbone.get_output_embeddings()
        rows = head.weight[list(token_ids)].float()
        bias = None if head.bias is None else head.bias[list(token_ids)].float()
        return F.linear(hidden_states.float(), rows, bias)

    def target_logits(
        self, hidden_states: torch.Tensor, target_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Logits over the vocabulary where a target is predicted, and nowhere else, with the targets.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch_size, length, hidden_size)`): Of [`decode`].
            target_ids (`torch.LongTensor` of shape `(batch_size, length)`):
                The tokens of `input_ids` to be learned, -100 elsewhere. Each is predicted at the position before its own.

        Returns:
            `(num_targets, vocab_size)` in float32 and `(num_targets,)`.
        """
        following = target_ids[:, 1:]
        kept = following != -100
        head = self.backbone.get_output_embeddings()
        return head(hidden_states[:, :-1][kept]).float(), following[kept]

    def answer_positions(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Where the answer's first token is predicted, `(batch_size,)`: at the last token of the prompt behind the audio."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        last_audio = (places * (input_ids == self.config.audio_token_id)).amax(-1)
        return last_audio + len(self.config.prompt_ids_after)

    def forward(
        self,
        input_features: torch.Tensor | None = None,
        feature_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        audio_embeds: torch.Tensor | None = None,
        audio_lengths: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> AudioLLMOutput | tuple[torch.Tensor, ...]:
        """
        Args:
            input_features (`torch.FloatTensor` of shape `(batch_size, num_mel_bins, num_frames)`): Padded log-mel frames.
            feature_attention_mask (`torch.LongTensor` of shape `(batch_size, num_frames)`): 1 for frames of the clips.
            labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Class indices of `config.id2label`, for cross-entropy between the two words.
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`, *optional*):
                This prompt, as [`prepare_inputs`] makes it by default, with an answer behind it or without.
            attention_mask (`torch.LongTensor` of shape `(batch_size, length)`, *optional*): 0 for padding of `input_ids`.
            audio_embeds (`torch.FloatTensor` of shape `(total, hidden_size)`, *optional*):
                Of [`encode_audio`], instead of `input_features`.
            audio_lengths (`torch.LongTensor` of shape `(batch_size,)`, *optional*): How many of them each clip has.
            target_ids (`torch.LongTensor` of shape `(batch_size, length)`, *optional*):
                Tokens of `input_ids` to be learned, -100 elsewhere, for cross-entropy over the vocabulary. Shifted here.

        Raises:
            `ValueError`: for inputs that do not belong together; see [`encode_audio`] and [`decode`].
        """
        if audio_embeds is None:
            audio_embeds, audio_lengths = self.encode_audio(input_features, feature_attention_mask)
        if input_ids is None:
            prepared = self.prepare_inputs(audio_lengths.tolist())
            input_ids, attention_mask = prepared["input_ids"], prepared["attention_mask"]
        slots = (input_ids == self.config.audio_token_id).sum(-1).tolist()
        # Where their sum alone is right, one clip would be heard in another's place.
        if audio_lengths is not None and slots != audio_lengths.tolist():
            raise ValueError(f"the prompts have {slots} audio tokens, the clips need {audio_lengths.tolist()}.")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        hidden_states = self.decode(audio_embeds, input_ids, attention_mask)
        rows = torch.arange(len(hidden_states), device=hidden_states.device)
        logits = self.word_logits(hidden_states[rows, self.answer_positions(input_ids)], self.config.label_ids)
        loss, target_losses = None if labels is None else F.cross_entropy(logits, labels), None
        if target_ids is not None:
            losses = F.cross_entropy(*self.target_logits(hidden_states, target_ids), reduction="none")
            kept = target_ids[:, 1:] != -100
            loss, target_losses = losses.mean(), losses.new_zeros(kept.shape).masked_scatter(kept, losses).sum(-1)
        output = AudioLLMOutput(loss=loss, logits=logits, target_losses=target_losses)
        return_dict = return_dict if return_dict is not None else self.config.return_dict
        return output if return_dict else output.to_tuple()


__all__ = ["AudioLLMForAudioClassification", "AudioLLMOutput"]
