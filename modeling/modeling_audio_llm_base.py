"""What a detector around an audio language model trains, saves and loads; the way from sound to score is elsewhere."""

import os
import re
from collections.abc import Mapping

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoProcessor, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from .audio_llm_adapters import (
    MEMORY_OPTIONS,
    WEIGHTS,
    adapt,
    adapter_settings,
    detector_names,
    find_weights,
    is_trained,
    load_backbone,
    load_base,
    overlay,
    read_adapter,
    read_backbone_config,
    read_trained,
    save_adapter,
    weights_digest,
)
from .audio_llm_backbones import Backbone, find_backbone
from .audio_llm_prompts import read_prompt
from .configuration_audio_llm import DEFAULT_LABEL_WORDS, DEFAULT_PROMPT, AudioLLMDetectorConfig
from .lora import ADAPTER_FOLDER, HUB_OPTIONS, merge_lora, remove_adapter, resolve_commit


def set_dtype(config: PreTrainedConfig, dtype: torch.dtype):
    """Of all parts, however deep: transformers tells the backbone alone, and its encoder and decoder would keep their own."""
    config.dtype = dtype
    for name in config.sub_configs:
        if isinstance(part := getattr(config, name, None), PreTrainedConfig):
            set_dtype(part, dtype)


def take_dtype(options: dict):
    """Completes options of `from_pretrained` in place: `dtype` under its older name, and a type by its name."""
    if "torch_dtype" in options:
        older = options.pop("torch_dtype")
        options.setdefault("dtype", older)
    if isinstance(name := options.get("dtype"), str) and name != "auto":
        options["dtype"] = getattr(torch, name)


class AudioLLMPreTrainedModel(PreTrainedModel):
    """An audio language model as `backbone`, with adapters in it where the configuration says so."""

    config: AudioLLMDetectorConfig
    base_model_prefix = "backbone"
    main_input_name = "input_features"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    # The loss is a mean over one batch: Trainer has to divide it under gradient accumulation.
    accepts_loss_kwargs = False

    def __init__(self, config: AudioLLMDetectorConfig):
        super().__init__(config)
        needed = ("label_token_ids", "prompt_ids_before", "prompt_ids_after", "audio_token_id")
        lacking = [name for name in needed if getattr(config, name) is None]
        if lacking:
            raise ValueError(
                f"the configuration lacks {', '.join(lacking)}, which come from a tokenizer: make the detector with "
                "`AudioLLMForAudioClassification.from_backbone_pretrained`."
            )
        self.backbone = find_backbone(config.backbone_config.model_type).cls(config.backbone_config)
        self._adapt()
        self.post_init()
        self.leave_base_out()

    @property
    def parts(self) -> Backbone:
        """What is particular to this kind of backbone."""
        return find_backbone(self.config.backbone_config.model_type)

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def _adapt(self):
        if self.config.lora is not None or self.config.train_encoder or self.config.leaves_base_out:
            adapt(self.backbone, self.config)

    def leave_base_out(self):
        """Tells transformers and its Trainer which tensors checkpoints leave out: all of a named base model."""
        # Kept: a model that is wrapped for training by parts has other names, or gathers them with other processes.
        names = list(self.state_dict())
        self._trained_names = [name for name in names if is_trained(name.removeprefix("backbone."), self.config)]
        left_out = sorted(set(names) - set(self._trained_names)) if self.config.leaves_base_out else []
        self._keys_to_ignore_on_save = left_out or None
        self._keys_to_ignore_on_load_missing = [f"^{re.escape(name)}$" for name in left_out] or None

    def merge_lora(self):
        """
        Makes the detector whole: adapters become plain weights, and what is saved afterwards needs no base and no peft.

        Raises:
            `ValueError`: where the base model is held in 4 or 8 bits, which would round the adapters away.
        """
        if getattr(self.backbone, "is_quantized", False):
            raise ValueError(
                "adapters are not merged into a base model of 4 or 8 bits: load the detector again without "
                "`quantization_config`, and merge that."
            )
        if self.config.lora is not None:
            merge_lora(self.backbone)
        self.config.lora = self.config.base_model_name_or_path = None
        self.config.base_revision = self.config.base_sha256 = None
        self.config.train_encoder = False
        self.backbone.requires_grad_(True)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(not name.endswith(self.parts.fixed))
        self.leave_base_out()

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """
        As in transformers; where a base model is named, it stays out of the checkpoint.

        Adapters then lie in the folder `adapter` once more, as peft reads them for the plain base model; those of an earlier
        save go where there are none.

        Raises:
            `ValueError`: for a folder that is an adapter of peft's, which transformers would put on the detector; for
                `push_to_hub` where a base model is named.
        """
        if push_to_hub and self.config.leaves_base_out:
            # The client uploads what super() writes, and would leave the adapters out.
            raise ValueError("a detector without its base is saved first and then pushed by `push_to_hub(repo_id)`")
        if os.path.isfile(os.path.join(save_directory, "adapter_config.json")):
            raise ValueError(
                f"{str(save_directory)!r} holds an adapter of peft's (adapter_config.json), which would be loaded with the "
                "detector: save it into another folder."
            )
        adapter, is_main = os.path.join(save_directory, ADAPTER_FOLDER), kwargs.get("is_main_process", True)
        if self.config.lora is None and is_main:
            remove_adapter(adapter)
        # Names as they are here: those of older transformers, its default, could not be overlaid one by one.
        kwargs.setdefault("save_original_format", False)
        if not self.config.leaves_base_out:
            super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
            return
        state = kwargs.pop("state_dict", None) or self.state_dict()
        own = {name: state[name] for name in self._trained_names}
        super().save_pretrained(save_directory, state_dict=dict(own), **kwargs)
        if not is_main:
            return
        if not own:  # nothing was trained, and transformers writes no empty file
            save_file({}, os.path.join(save_directory, WEIGHTS), metadata={"format": "pt"})
        if self.config.lora is not None:
            inner = {name.removeprefix("backbone."): value for name, value in state.items()}
            save_adapter(inner, self.config, adapter)

    @classmethod
    def from_backbone_pretrained(
        cls,
        name_or_path: str | os.PathLike,
        revision: str = "main",
        prompt: str = DEFAULT_PROMPT,
        label_words: Mapping[str, str] | None = None,
        processor: ProcessorMixin | None = None,
        **kwargs,
    ) -> "AudioLLMPreTrainedModel":
        """
        A detector around a published audio language model, which scores at once and is ready to be fine-tuned.

        Args:
            name_or_path (`str` or `os.PathLike`): For example `"Qwen/Qwen2-Audio-7B-Instruct"`, or a folder.
            revision (`str`, *optional*, defaults to `"main"`): Branch, tag or commit; the commit is kept.
            prompt (`str`, *optional*): The question.
            label_words (`Mapping[str, str]`, *optional*): The answers for `bonafide` and `spoof`, one token each.
            processor (`ProcessorMixin`, *optional*): By default the one published with the model.
            kwargs:
                Further fields of [`AudioLLMDetectorConfig`], such as `lora={"r": 64}` and `train_encoder=True`; and `dtype`,
                `device_map`, `quantization_config`, `token` and the like, as `from_pretrained` takes them.

        Raises:
            `ValueError`: for label words that are not single tokens, a tokenizer without the audio token, a prompt without
                an audio slot, a model of another kind or one that lacks weights.
            `TypeError`: for options that there are not.
            `OSError`: where the model cannot be found or reached.
        """
        take_dtype(kwargs)
        hub_options = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        memory_options = {name: kwargs.pop(name) for name in MEMORY_OPTIONS if name in kwargs}
        if unknown := sorted(set(kwargs) - set(cls.config_class.__dataclass_fields__)):
            raise TypeError(
                f"there is no option {', '.join(unknown)}; AudioLLMDetectorConfig names those of a detector."
            )
        commit = resolve_commit(name_or_path, revision, **hub_options)
        hub_options["revision"] = commit or revision
        backbone_config = read_backbone_config(name_or_path, **hub_options)
        processor = processor or AutoProcessor.from_pretrained(name_or_path, **hub_options)
        config = cls.config_class(
            backbone_config=backbone_config,
            **read_prompt(processor, prompt, kwargs.pop("system_prompt", None), label_words or DEFAULT_LABEL_WORDS),
            # A folder is found from wherever the detector is loaded.
            base_model_name_or_path=os.path.abspath(name_or_path) if commit is None else os.fspath(name_or_path),
            base_revision=commit,
            base_sha256=weights_digest(find_weights(name_or_path, **hub_options)),
            **kwargs,
        )
        return cls._around(config, load_backbone(name_or_path, backbone_config, **hub_options, **memory_options))

    @classmethod
    def from_adapter_pretrained(
        cls,
        adapter: str | os.PathLike,
        base_model: str | os.PathLike | None = None,
        encoder_state: Mapping[str, torch.Tensor] | None = None,
        adapter_revision: str = "main",
        **kwargs,
    ) -> "AudioLLMPreTrainedModel":
        """
        A detector from a low-rank adapter that peft has saved, such as those of ALLM4ADD.

        Args:
            adapter (`str` or `os.PathLike`): With `adapter_config.json` and `adapter_model.safetensors`.
            base_model (`str` or `os.PathLike`, *optional*): By default the one that the adapter names.
            encoder_state (`Mapping[str, torch.Tensor]`, *optional*):
                A trained audio encoder that was saved apart, by the names of the plain base model.
            adapter_revision (`str`, *optional*, defaults to `"main"`): Branch, tag or commit of the adapter.
            kwargs: As [`from_backbone_pretrained`] takes them, but for `lora` and `train_encoder`.

        Raises:
            `ValueError`: where it does not fit the base model, or is no plain low-rank adapter.
            `OSError`: where either cannot be found or reached.
        """
        hub_options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        settings, tensors = read_adapter(adapter, revision=adapter_revision, **hub_options)
        tensors = {**tensors, **(encoder_state or {})}
        name = base_model or settings.base_model_name_or_path
        if name is None:
            raise ValueError(f"the adapter {str(adapter)!r} does not name its base model: pass `base_model=`.")
        if base_model is None and settings.revision is not None:
            kwargs.setdefault("revision", settings.revision)
        where = {**hub_options, "revision": kwargs.get("revision", "main")}
        base_config = read_backbone_config(name, **where)
        model = cls.from_backbone_pretrained(name, **adapter_settings(base_config, settings, tensors), **kwargs)
        overlay(model, detector_names(base_config, tensors), model._trained_names)
        return model

    @classmethod
    def _around(cls, config: PreTrainedConfig, backbone: PreTrainedModel) -> "AudioLLMPreTrainedModel":
        """A detector whose language model is there already."""
        with torch.device("meta"):
            model = cls(config)
        model.backbone = backbone
        config.backbone_config = backbone.config
        model._adapt()
        return model.eval()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args,
        base_model: str | os.PathLike | None = None,
        config: PreTrainedConfig | None = None,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        output_loading_info: bool = False,
        **kwargs,
    ):
        """
        As in transformers; where the checkpoint leaves its base model out, that is fetched and completed.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): A repository on the Hub or a folder.
            base_model (`str` or `os.PathLike`, *optional*):
                Where the base model lies, if not where the configuration says. Its weights have to be the same.
            config (`PreTrainedConfig`, *optional*): Instead of the checkpoint's.
            state_dict (`Mapping[str, torch.Tensor]`, *optional*): Instead of the checkpoint's own tensors.
            output_loading_info (`bool`, *optional*, defaults to `False`): Whether to return what was missing as well.

        Raises:
            `ValueError`: where a tensor is missing, left over or of another shape, or the base model is another one than was
                adapted. Of whole detectors, `output_loading_info` tells of it instead.
            `OSError`: where the checkpoint or the base model cannot be found or reached.
        """
        take_dtype(kwargs)
        hub_options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        where = {name: kwargs[name] for name in ("revision", "subfolder") if name in kwargs}
        if config is None:
            config = cls.config_class.from_pretrained(pretrained_model_name_or_path, **hub_options, **where)
        if not config.leaves_base_out:
            if isinstance(kwargs.get("dtype"), torch.dtype):
                set_dtype(config, kwargs["dtype"])
            model, report = super().from_pretrained(
                pretrained_model_name_or_path,
                *model_args,
                config=config,
                state_dict=state_dict,
                output_loading_info=True,
                **kwargs,
            )
            if output_loading_info:
                return model, report
            if found := {kind: sorted(map(str, names))[:8] for kind, names in report.items() if names}:
                raise ValueError(f"the checkpoint does not fit the detector, so it is not used: {found}.")
            return model
        if state_dict is None:
            state_dict = read_trained(pretrained_model_name_or_path, **hub_options, **where)
        memory_options = {name: kwargs[name] for name in MEMORY_OPTIONS if name in kwargs}
        model = cls._around(config, load_base(config, base_model, **hub_options, **memory_options))
        overlay(model, state_dict, model._trained_names)
        report = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return (model, report) if output_loading_info else model


__all__ = ["AudioLLMPreTrainedModel"]
