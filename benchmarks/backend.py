"""The back-end of W2V2-AASIST, from wav2vec 2.0 features on, beside the public SSL_Anti-spoofing.

python benchmarks/backend.py --reference path/to/SSL_Anti-spoofing
"""

from functools import partial

import torch
import torch.nn.functional as F
from common import (
    CLOCKS,
    FEATURE_SIZE,
    copy_weights,
    medians,
    no_dropout,
    parse_arguments,
    print_machine,
    print_row,
    reference_backend,
    require_equal,
    settle_batch_norm,
)
from torch import nn

from spooftrace.modeling.configuration_aasist import AasistConfig
from spooftrace.modeling.convert_aasist import rename_backend_key
from spooftrace.modeling.modeling_aasist import AasistForAudioClassification


FRAMES = 201  # of wav2vec 2.0 for the papers' 64,600 samples


class Backend(nn.Module):
    """Our detector from wav2vec 2.0 features on: `(batch, frames, 1024)` -> logits."""

    def __init__(self):
        super().__init__()
        encoder = {"hidden_size": FEATURE_SIZE, "num_attention_heads": 16, "num_hidden_layers": 0}  # not run here
        self.detector = AasistForAudioClassification(AasistConfig(frontend="wav2vec2", wav2vec2_config=encoder))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        aasist = self.detector.aasist
        embeddings, _, _ = aasist.backend(aasist.encoder(aasist.frontend.pool(features)))
        return self.detector.classifier(self.detector.dropout(embeddings))


def forward(model: nn.Module, features: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(features)


def forward_backward(model: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """With gradients for the features too, as when the wav2vec 2.0 encoder is fine-tuned."""
    model.zero_grad()
    loss = F.cross_entropy(model(features), torch.arange(len(features)) % 2)
    loss.backward()
    return loss.detach()


def compare(ours: Backend, reference: nn.Module):
    """Logits in evaluation; loss and all gradients in training, without dropout, whose masks are random.

    Gradients are compared in double precision: in single precision, rounding decides which of two nearly equal nodes a
    maximum picks, and the gradient jumps from one to the other.
    """
    features = torch.randn(4, FRAMES, FEATURE_SIZE)
    print("Same weights in both:")
    require_equal("logits", forward(ours.eval(), features), forward(reference.eval(), features).flip(1))
    features = features.double().requires_grad_()
    with no_dropout(ours, reference):
        loss = forward_backward(ours.double().train(), features)
        gradient, features.grad = features.grad, None
        labels = torch.arange(len(features)) % 2
        reference_loss = F.cross_entropy(reference.double().train()(features).flip(1), labels)
        reference_loss.backward()
    require_equal("training loss", loss, reference_loss.detach())
    require_equal("gradient of the features", gradient, features.grad)
    parameters = dict(ours.detector.named_parameters())
    pairs = [
        (parameters[rename_backend_key(name)].grad, parameter.grad)
        for name, parameter in reference.named_parameters()
        if parameter.grad is not None and not name.startswith("out_layer")
    ]
    gradients, reference_gradients = (
        torch.cat([gradient.flatten() for gradient in side]) for side in zip(*pairs, strict=True)
    )
    require_equal("gradients of all weights", gradients, reference_gradients)
    ours.float(), reference.float()


def main():
    arguments = parse_arguments(__doc__, "TakHemlata/SSL_Anti-spoofing", batches=[1, 8, 32])
    print_machine(arguments)
    models = {"spooftrace": Backend()}
    if arguments.reference:
        models["reference"] = reference_backend(arguments.reference)
        settle_batch_norm(models["reference"], torch.randn(8, FRAMES, FEATURE_SIZE))
        copy_weights(models["reference"], models["spooftrace"].detector)
        compare(models["spooftrace"], models["reference"])
    for batch in arguments.batches:
        features = torch.randn(batch, FRAMES, FEATURE_SIZE, requires_grad=True)
        for label, function, training in (("forward", forward, False), ("forward + backward", forward_backward, True)):
            runs = {name: partial(function, model.train(training), features) for name, model in models.items()}
            print_row(label, batch, medians(runs, arguments.repeats, CLOCKS[arguments.clock]))


if __name__ == "__main__":
    main()
