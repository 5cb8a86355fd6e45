"""Detectors with low-rank adapters: their repositories leave the encoder out, and loading puts it back."""

import os
import re
from collections.abc import Mapping

import torch
from transformers import Wav2Vec2Model

from .lora import ADAPTER_FOLDER, HUB_OPTIONS, base_state, is_adapter_key, merge_lora, remove_adapter, save_adapter
from .pretrained_waveform_model import PreTrainedWaveformModel


class PreTrainedAdaptedModel(PreTrainedWaveformModel):
    """A model whose `frontend` holds a wav2vec 2.0, with adapters in it where `config.lora` says so."""

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """
        As in transformers; a saved folder loads as the bare model and as the classifier, without spooftrace too.

        With low-rank adapters the encoder stays out of the checkpoint, and the adapters lie in the folder `adapter` once
        more, as peft reads them.
        """
        self.leave_base_out()  # anew: adapters may have been merged in the bare model inside
        lora = self.config.lora
        if lora is not None:
            _refuse_incomplete(lora, push_to_hub)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        adapter = os.path.join(save_directory, ADAPTER_FOLDER)
        if lora is not None and kwargs.get("is_main_process", True):
            save_adapter(self, lora, adapter, kwargs.get("state_dict"))
        elif lora is None and kwargs.get("is_main_process", True):
            remove_adapter(adapter)  # of an earlier save, before the adapters were merged

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args,
        base_model: str | os.PathLike | None = None,
        output_loading_info: bool = False,
        **kwargs,
    ):
        """
        As in transformers; a checkpoint with low-rank adapters gets the encoder they were trained on.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): A repository on the Hub or a folder.
            base_model (`str` or `os.PathLike`, *optional*):
                Where the encoder lies, if not where the configuration says. Its weights have to be the same.
            output_loading_info (`bool`, *optional*, defaults to `False`): Whether to return what was missing as well.

        Raises:
            `ValueError`: where the encoder is another one than the adapters were trained on.
            `OSError`: where the checkpoint or the encoder cannot be found or reached.
        """
        loaded, report = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        if loaded.config.lora is not None:
            given = kwargs.get("state_dict") or {}
            if all(name in given for name in loaded._keys_to_ignore_on_save or ()):
                loaded.wav2vec2.requires_grad_(False)
                for name, parameter in loaded.wav2vec2.named_parameters():
                    parameter.requires_grad_(is_adapter_key(name))
            else:  # what a checkpoint lacks, transformers leaves uninitialised
                options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
                loaded.load_base_model(base_model, **options)
        return (loaded, report) if output_loading_info else loaded

    @property
    def wav2vec2(self) -> Wav2Vec2Model:
        """The encoder of the wav2vec 2.0 front end."""
        return self.base_model.frontend.wav2vec2

    def load_base_model(self, base_model: str | os.PathLike | None = None, **hub_options):
        """
        Puts the weights of the encoder that `config.lora` names below the adapters.

        Args:
            hub_options: `token`, `cache_dir`, `local_files_only` and the like, as `from_pretrained` takes them.

        Raises:
            `ValueError`: where another encoder is found than the one trained on, or none is named.
            `OSError`: where it cannot be reached.
        """
        lora = self.config.lora
        if base_model is not None:  # a copy of it, at another place: what is saved still names the original
            lora = {**lora, "base_model_name_or_path": os.fspath(base_model), "base_revision": None}
        state = base_state(lora, self.config.wav2vec2_config, **hub_options)
        own = self.wav2vec2.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, value in state.items():
                own[name].requires_grad_(False).copy_(value)  # transformers makes what a checkpoint lacks anew

    def merge_lora(self):
        """Turns the low-rank adapters into plain weights; what is saved afterwards is a whole model that needs no peft."""
        if self.config.lora is not None:
            merge_lora(self.wav2vec2)
            self.config.lora = None
            self.leave_base_out()

    def leave_base_out(self):
        """Tells transformers and its Trainer which tensors checkpoints leave out: those of an encoder with adapters."""
        names = []
        if self.config.lora is not None:
            names = [name for name in self.state_dict() if ".wav2vec2." in f".{name}" and not is_adapter_key(name)]
        self._keys_to_ignore_on_save = names or None
        self._keys_to_ignore_on_load_missing = [f"^{re.escape(name)}$" for name in names] or None


def _refuse_incomplete(lora: Mapping, push_to_hub: bool):
    """Raises `ValueError` where what is saved could not be put together again."""
    if lora["base_sha256"] is None:
        raise ValueError(
            "the encoder below the adapters has no digest, so the checkpoint could not be put together again: build the "
            "model with `from_wav2vec2_pretrained`, or call `merge_lora()` first."
        )
    if push_to_hub:  # the client uploads what super() writes, and would leave the adapters out
        raise ValueError("with adapters, save first and then call `push_to_hub(repo_id)`")


__all__ = ["PreTrainedAdaptedModel"]
