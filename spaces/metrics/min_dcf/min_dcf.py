"""Minimum detection cost of spoofing countermeasures, for `evaluate`."""

import evaluate

from .metrics import min_dcf
from .trials import metric_info, split_trials


DESCRIPTION = """
Minimum detection cost (minDCF): the least cost that any threshold reaches, divided by that of the better of refusing and
accepting everything. 0 is perfect, 1 is no use. The defaults are those of ASVspoof 5, track 1.
"""

OPTIONS = """    p_spoof (`float`, 0.05): how probable a spoof is, between 0 and 1.
    c_miss (`float`, 1): cost of refusing genuine speech.
    c_fa (`float`, 10): cost of accepting a spoof.
"""

RETURNS = """    min_dcf (`float`): the cost, in [0, 1].
    threshold (`float`): scores above it are accepted there.
"""

CITATION = """
@inproceedings{wang2024asvspoof5,
  title = {{ASVspoof} 5: Crowdsourced Speech Data, Deepfakes, and Adversarial Attacks at Scale},
  author = {Wang, Xin and Delgado, H{\\'e}ctor and Tak, Hemlata and others},
  booktitle = {The Automatic Speaker Verification Spoofing Countermeasures Workshop (ASVspoof 2024)},
  year = {2024}
}
"""


class MinDCF(evaluate.Metric):
    """See the description."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            DESCRIPTION, options=OPTIONS, returns=RETURNS, citation=CITATION, url="https://arxiv.org/abs/2408.08739"
        )

    def _compute(
        self,
        predictions,
        references,
        bonafide_label: int = 0,
        p_spoof: float = 0.05,
        c_miss: float = 1.0,
        c_fa: float = 10.0,
    ) -> dict[str, float]:
        trials = split_trials(predictions, references, bonafide_label)
        cost, threshold = min_dcf(*trials, p_spoof=p_spoof, c_miss=c_miss, c_fa=c_fa)
        return {"min_dcf": cost, "threshold": threshold}
