"""The stand-alone AASIST and AASIST-L, from the waveform on, beside the public code with its published weights.

python benchmarks/standalone.py --reference path/to/aasist
"""

import json
from functools import partial
from pathlib import Path

import torch
from common import (
    CLOCKS,
    copy_weights,
    import_reference,
    medians,
    parse_arguments,
    print_machine,
    print_row,
    require_equal,
)
from torch import nn

from spooftrace.modeling.configuration_aasist import AasistConfig
from spooftrace.modeling.modeling_aasist import AasistForAudioClassification


SAMPLES = 64_600  # 4 s at 16 kHz, the papers' input
CONFIGS = {
    "AASIST": {},
    "AASIST-L": {
        "encoder_channels": [32, 32, 24, 24, 24, 24],
        "graph_dims": [24, 32],
        "pool_ratios": [0.4, 0.5, 0.7],
    },
}


class Reference(nn.Module):
    """The public model with its published weights: waveforms -> logits, bona fide last."""

    def __init__(self, folder: str, name: str):
        super().__init__()
        module = import_reference(folder, "models/AASIST.py")
        config = json.loads((Path(folder) / "config" / f"{name}.conf").read_text())["model_config"]
        self.model = module.Model(config)
        weights = Path(folder) / "models" / "weights" / f"{name}.pth"
        self.model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        return self.model(waveforms)[1]


class Detector(nn.Module):
    def __init__(self, name: str):
        super().__init__()
        self.detector = AasistForAudioClassification(AasistConfig(**CONFIGS[name]))

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        return self.detector(waveforms).logits


def main():
    arguments = parse_arguments(__doc__, "clovaai/aasist", batches=[1, 8])
    print_machine(arguments)
    for name in CONFIGS:
        models = {"spooftrace": Detector(name).eval()}
        if arguments.reference:
            models["reference"] = Reference(arguments.reference, name).eval()
            copy_weights(models["reference"].model, models["spooftrace"].detector)
        with torch.no_grad():
            if arguments.reference:
                waveforms = 0.1 * torch.randn(2, SAMPLES)
                ours, reference = (model(waveforms) for model in models.values())
                require_equal(f"logits of {name}", ours, reference.flip(1))
            for batch in arguments.batches:
                waveforms = 0.1 * torch.randn(batch, SAMPLES)
                runs = {side: partial(model, waveforms) for side, model in models.items()}
                print_row(f"{name} forward", batch, medians(runs, arguments.repeats, CLOCKS[arguments.clock]))


if __name__ == "__main__":
    main()
