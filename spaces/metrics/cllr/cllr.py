"""Cost of the log-likelihood ratio of spoofing countermeasures, for `evaluate`."""

import evaluate

from .metrics import cllr
from .trials import metric_info, split_trials


DESCRIPTION = """
Cost of the log-likelihood ratio (CLLR) in bits: how far scores can be taken at their word as natural log-likelihood ratios
of genuine against fake speech. 0 is perfect, 1 says nothing, and there is no upper limit.
"""

RETURNS = """    cllr (`float`): the cost in bits, 0 or more.
"""

CITATION = """
@article{brummer2006application,
  title = {Application-Independent Evaluation of Speaker Detection},
  author = {Br{\\"u}mmer, Niko and du Preez, Johan},
  journal = {Computer Speech \\& Language},
  volume = {20},
  number = {2--3},
  pages = {230--275},
  year = {2006}
}
"""


class CLLR(evaluate.Metric):
    """See the description."""

    def _info(self) -> evaluate.MetricInfo:
        url = "https://doi.org/10.1016/j.csl.2005.08.001"
        return metric_info(DESCRIPTION, options="", returns=RETURNS, citation=CITATION, url=url)

    def _compute(self, predictions, references, bonafide_label: int = 0) -> dict[str, float]:
        return {"cllr": cllr(*split_trials(predictions, references, bonafide_label))}
