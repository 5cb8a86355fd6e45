"""One meta-learning step of AASIST-LoRA at XLSR-53 size: beside its two passes alone, and beside copies of the whole model.

python benchmarks/mldg.py --threads 2

The weights are random. Times are taken in one process, the runs interleaved; each peak of memory in a process of its own.
"""

import argparse
import copy
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from common import CLOCKS, medians, print_machine, require_equal
from torch import nn
from torch.nn import functional as F

from spooftrace.modeling.configuration_aasist import XLSR_300M, AasistConfig
from spooftrace.modeling.modeling_aasist import AasistForAudioClassification
from spooftrace.trainers.mldg import meta_step


NUM_DOMAINS, NUM_TEST, INNER_RATE, BETA = 6, 2, 1e-3, 1.0
DROPOUTS = ("graph_dropout", "pool_dropout", "branch_dropout", "classifier_dropout")
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=4, help="of the adapters (default: 4)")
    parser.add_argument("--clips", type=int, default=12, help="of a step, a multiple of six domains (default: 12)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a clip (default: 2)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each side (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: 1)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="time passed or processor time")
    parser.add_argument("--seed", type=int, default=0, help="of weights and clips (default: 0)")
    parser.add_argument("--memory-of", choices=list(SIDES), help=argparse.SUPPRESS)
    return parser.parse_args()


class Step:
    """A model and a batch; each of its methods leaves the gradients of one step in the trained parameters."""

    def __init__(self, arguments: argparse.Namespace, layers: int = XLSR_300M["num_hidden_layers"]):
        torch.manual_seed(arguments.seed)
        config = AasistConfig(
            frontend="wav2vec2",
            wav2vec2_config={**XLSR_300M, "num_hidden_layers": layers},
            lora={"r": arguments.rank},
            **dict.fromkeys(DROPOUTS, 0.0),
        )
        self.model = AasistForAudioClassification(config).train()
        for name, parameter in self.model.named_parameters():
            if "lora_B" in name:  # peft's zeros would leave half of the adapters without a gradient
                nn.init.normal_(parameter, std=0.02)
        self.clips = 0.1 * torch.randn(arguments.clips, int(16_000 * arguments.seconds))
        self.labels, self.domains = torch.arange(arguments.clips) % 2, torch.arange(arguments.clips) % NUM_DOMAINS
        self.split = torch.arange(NUM_TEST, NUM_DOMAINS), torch.arange(NUM_TEST)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def losses(self, domains: torch.Tensor, model: nn.Module | None = None) -> torch.Tensor:
        chosen = torch.isin(self.domains, domains)
        logits = (model or self.model)(input_values=self.clips[chosen]).logits
        losses = F.cross_entropy(logits, self.labels[chosen], reduction="none")
        return torch.stack([losses[self.domains[chosen] == domain].mean() for domain in domains])

    def passes(self) -> None:
        """The two forward and backward passes and nothing else."""
        self.model.zero_grad()
        for domains in self.split:
            self.losses(domains).mean().backward()

    def ours(self) -> None:
        self.model.zero_grad()
        meta_step(self.parameters, self.losses, self.split, beta=BETA, learning_rate=INNER_RATE)

    def copies(self) -> None:
        """As DomainBed does it: a copy of the whole model, an optimiser of its own, and the gradients added."""
        self.model.zero_grad()
        adapted = copy.deepcopy(self.model)
        trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=INNER_RATE)
        self.losses(self.split[0], adapted).mean().backward()
        for mine, theirs in zip(self.parameters, trained, strict=True):
            mine.grad = torch.zeros_like(mine) if theirs.grad is None else theirs.grad.clone()
        optimizer.step()
        gradients = torch.autograd.grad(self.losses(self.split[1], adapted).mean(), trained, allow_unused=True)
        for mine, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                mine.grad.add_(gradient, alpha=BETA)

    def gradients(self, side: Callable[["Step"], None]) -> torch.Tensor:
        """Of one side, in one vector, from the same running statistics."""
        state = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        side(self)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(state[name])
        return torch.cat([parameter.grad.flatten() for parameter in self.parameters])


SIDES = {"two passes alone": Step.passes, "spooftrace": Step.ours, "copies of the model": Step.copies}


def compare(arguments: argparse.Namespace) -> None:
    """
    Holds the gradients against each other, with two layers of the encoder in double precision.

    In single precision, rounding decides which of two nearly equal nodes a maximum picks, and gradients jump.
    """
    step = Step(arguments, layers=2)
    step.model.double()
    step.clips = step.clips.double()
    require_equal("gradients", step.gradients(Step.ours), step.gradients(Step.copies))


def peak_memory(side: str) -> float:
    """GB that a process had at most in which the model was made and two steps were taken."""
    command = [sys.executable, *sys.argv, "--memory-of", side]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        step = Step(arguments)
        for _ in range(2):
            SIDES[arguments.memory_of](step)
        print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT / 1e9))
        return
    print_machine(arguments)
    # First: to Linux a new process has at least the peak of the one that started it.
    memory = {name: peak_memory(name) for name in SIDES}
    compare(arguments)
    step = Step(arguments)
    trained, total = (sum(p.numel() for p in group) for group in (step.parameters, step.model.parameters()))
    print(f"{trained:,} of {total:,} parameters trained, {arguments.clips} clips of {arguments.seconds} s")
    seconds = medians(
        {n: partial(side, step) for n, side in SIDES.items()}, arguments.repeats, CLOCKS[arguments.clock]
    )
    alone = seconds["two passes alone"]
    for name in SIDES:
        beyond = 100 * (seconds[name] / alone - 1)
        print(f"{name:<22} {seconds[name]:7.2f} s ({beyond:+5.1f} %)  peak memory {memory[name]:5.2f} GB", flush=True)


if __name__ == "__main__":
    main()
