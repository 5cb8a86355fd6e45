"""Equal error rate of spoofing countermeasures, for `evaluate`."""

import evaluate

from .metrics import eer
from .trials import metric_info, split_trials


DESCRIPTION = """
Equal error rate: where the share of refused bona fide trials meets that of accepted spoofs. A fraction: 0 is perfect, 0.5
says nothing, and more than that means that the scores point the wrong way. Equal to the rate of the ASVspoof packages.
"""

OPTIONS = """    method (`str`, "asvspoof"): "asvspoof" as in the evaluation packages; "merged", which passes equal scores together; "rocch",
        on the convex hull of the curve.
"""

RETURNS = """    eer (`float`): the rate, a fraction.
    threshold (`float`): scores above it are accepted there.
"""

CITATION = """
@article{wu2017asvspoof,
  title = {{ASVspoof}: The Automatic Speaker Verification Spoofing and Countermeasures Challenge},
  author = {Wu, Zhizheng and Yamagishi, Junichi and Kinnunen, Tomi and others},
  journal = {IEEE Journal of Selected Topics in Signal Processing},
  volume = {11},
  number = {4},
  pages = {588--604},
  year = {2017}
}
"""


class EER(evaluate.Metric):
    """See the description."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            DESCRIPTION, options=OPTIONS, returns=RETURNS, citation=CITATION, url="https://www.asvspoof.org"
        )

    def _compute(self, predictions, references, bonafide_label: int = 0, method: str = "asvspoof") -> dict[str, float]:
        return eer(*split_trials(predictions, references, bonafide_label), method=method)._asdict()
