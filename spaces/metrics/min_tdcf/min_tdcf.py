"""Minimum tandem detection cost of spoofing countermeasures, for `evaluate`."""

import evaluate

from .metrics import ASVSPOOF5_ASV, AsvErrorRates, min_tdcf
from .trials import metric_info, split_trials


DESCRIPTION = """
Minimum tandem detection cost (min t-DCF): the least cost of a countermeasure in front of a fixed speaker verification
system, over all thresholds of the countermeasure. At most 1. Priors and costs are those of ASVspoof 2019, 2021 and 5.
"""

OPTIONS = """    asv_miss (`float`): share of target speakers that the verification system refuses.
    asv_false_alarm (`float`): share of other speakers that it accepts.
    asv_spoof_false_alarm (`float`): share of spoofs that it accepts. The three default to the system of ASVspoof 5.
    version (`str`, "2021"): "2021", also of ASVspoof 5, or "2019", which leaves out what the verification system costs by
        itself.
"""

RETURNS = """    min_tdcf (`float`): the cost.
    threshold (`float`): scores above it are accepted there.
"""

CITATION = """
@article{kinnunen2020tandem,
  title = {Tandem Assessment of Spoofing Countermeasures and Automatic Speaker Verification: Fundamentals},
  author = {Kinnunen, Tomi and Delgado, H{\\'e}ctor and Evans, Nicholas and others},
  journal = {IEEE/ACM Transactions on Audio, Speech, and Language Processing},
  volume = {28},
  pages = {2195--2210},
  year = {2020}
}
"""


class MinTDCF(evaluate.Metric):
    """See the description."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            DESCRIPTION, options=OPTIONS, returns=RETURNS, citation=CITATION, url="https://arxiv.org/abs/2007.05979"
        )

    def _compute(
        self,
        predictions,
        references,
        bonafide_label: int = 0,
        asv_miss: float = ASVSPOOF5_ASV.miss,
        asv_false_alarm: float = ASVSPOOF5_ASV.false_alarm,
        asv_spoof_false_alarm: float = ASVSPOOF5_ASV.spoof_false_alarm,
        version: str = "2021",
    ) -> dict[str, float]:
        asv = AsvErrorRates(miss=asv_miss, false_alarm=asv_false_alarm, spoof_false_alarm=asv_spoof_false_alarm)
        trials = split_trials(predictions, references, bonafide_label)
        cost, threshold = min_tdcf(*trials, asv, version=version)
        return {"min_tdcf": cost, "threshold": threshold}
