"""Detection metrics on as many scores as ASVspoof 5 evaluates, beside its evaluation package; bootstrap intervals.

python benchmarks/metrics.py --reference path/to/asvspoof5
"""

import argparse
import contextlib
import os
from collections.abc import Callable
from functools import partial

import numpy as np
from common import CLOCKS, cpu_name, import_reference, medians

from spooftrace import metrics
from spooftrace.intervals import eer_interval, paired_test


BONAFIDE, SPOOF, SPEAKERS = 138_688, 542_086, 737  # trials of the evaluation set of ASVspoof 5, and as many voices
TOLERANCE = 1e-9
SEARCHED = {"t-EER": 1e-3}  # the package samples thresholds, so its number is near, not equal
Function = Callable[[], float]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", metavar="DIR", help="a checkout of github.com/asvspoof-challenge/asvspoof5")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each side (default: 7)")
    parser.add_argument("--rounds", type=int, default=1000, help="bootstrap rounds (default: 1000)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="time passed or processor time")
    parser.add_argument("--seed", type=int, default=0, help="of the scores (default: 0)")
    return parser.parse_args()


def make_scores(seed: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Bona fide and spoof scores of a countermeasure; target, non-target and spoof scores of a speaker verification."""
    rng = np.random.default_rng(seed)
    cm = rng.normal(1.5, 1, BONAFIDE), rng.normal(-1, 1.2, SPOOF)
    targets = BONAFIDE // 2
    return cm, (rng.normal(2, 1, targets), rng.normal(-2, 1, BONAFIDE - targets), rng.normal(0.5, 1.5, SPOOF))


def our_functions(cm: tuple, asv: tuple) -> dict[str, Function]:
    def track_1() -> float:
        curve = metrics.det_curve(*cm)
        return curve.eer().eer + curve.min_dcf().cost + metrics.act_dcf(*cm).cost + metrics.cllr(*cm)

    return {
        "EER": lambda: metrics.eer(*cm).eer,
        "minDCF": lambda: metrics.min_dcf(*cm).cost,
        "actDCF": lambda: metrics.act_dcf(*cm).cost,
        "CLLR": lambda: metrics.cllr(*cm),
        "EER, minDCF, actDCF and CLLR": track_1,
        "t-DCF": lambda: metrics.min_tdcf(*cm, metrics.ASVSPOOF5_ASV).cost,
        "a-DCF": lambda: metrics.a_dcf(*asv).cost,
        "t-EER": lambda: metrics.t_eer(*cm, *asv).t_eer,
        "EER of the convex hull": lambda: metrics.eer(*cm, method="rocch").eer,
        "AUC": lambda: metrics.auc(*cm),
    }


def reference_functions(folder: str, cm: tuple, asv: tuple) -> dict[str, Function]:
    """The package's own functions, in the order in which its scripts call them."""
    package = import_reference(folder, "evaluation-package/calculate_modules.py")
    a_dcf = import_reference(folder, "evaluation-package/a_dcf.py")
    costs = {"Ptar": 0.9405, "Pnon": 0.0095, "Pspoof": 0.05, "Cmiss": 1, "Cfa": 10, "Cfa_spoof": 10}
    fixed = metrics.ASVSPOOF5_ASV
    asv_rates = fixed.false_alarm, fixed.miss, fixed.spoof_false_alarm
    asv_costs = a_dcf.CostModel(Pspf=0.05, Pnontrg=0.0095, Ptrg=0.9405, Cmiss=1, Cfa_asv=10, Cfa_cm=10)

    def min_dcf() -> float:
        return package.compute_mindcf(*package.compute_det_curve(*cm), 0.05, 1, 10)[0]

    def track_1() -> float:
        eer, *curve, _ = package.compute_eer(*cm)
        actual = package.compute_actDCF(*cm, 0.05, 1, 10)[0]
        return eer + package.compute_mindcf(*curve, 0.05, 1, 10)[0] + actual + package.calculate_CLLR(*cm)

    def t_eer() -> float:
        curves = package.compute_det_curve(*cm), package.compute_Pmiss_Pfa_Pspoof_curves(*asv)
        with np.errstate(all="ignore"):
            return package.compute_teer_accelerated(*curves[0], *curves[1]) / 100

    return {
        "EER": lambda: package.compute_eer(*cm)[0],
        "minDCF": min_dcf,
        "actDCF": lambda: package.compute_actDCF(*cm, 0.05, 1, 10)[0],
        "CLLR": lambda: package.calculate_CLLR(*cm),
        "EER, minDCF, actDCF and CLLR": track_1,
        "t-DCF": lambda: package.compute_tDCF(*cm, *asv_rates, costs, False)[0].min(),
        "a-DCF": lambda: a_dcf._calculate_a_dcf(*asv, asv_costs, False)["min_a_dcf"],
        "t-EER": t_eer,
    }


def compare(ours: dict[str, Function], reference: dict[str, Function]):
    """Stops unless both sides give the same numbers."""
    for name, function in reference.items():
        found, expected = ours[name](), float(function())
        print(f"  {name}: {found:.10f}, reference {expected:.10f}")
        if not abs(found - expected) <= SEARCHED.get(name, TOLERANCE):
            raise SystemExit(f"{name} differs: the times below would compare different things.")


def intervals(cm: tuple, rounds: int, seed: int) -> dict[str, Callable[[], object]]:
    rng = np.random.default_rng(seed)
    speakers = [[f"speaker {number}" for number in rng.integers(0, SPEAKERS, len(scores))] for scores in cm]
    clustered = {"bonafide_speakers": speakers[0], "spoof_speakers": speakers[1], "rounds": rounds}
    other = tuple(scores + rng.normal(0, 0.5, len(scores)) for scores in cm)
    return {
        "EER, trials resampled": partial(eer_interval, *cm, rounds=rounds),
        "EER, speakers resampled": partial(eer_interval, *cm, **clustered),
        "paired test, speakers resampled": partial(paired_test, cm, other, **clustered),
    }


def main():
    arguments = parse_arguments()
    clock = CLOCKS[arguments.clock]
    print(f"{cpu_name()}, {arguments.clock} time, numpy {np.__version__}")
    with contextlib.suppress(AttributeError):
        print(f"Load at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    cm, asv = make_scores(arguments.seed)
    ours, reference = our_functions(cm, asv), {}
    if arguments.reference:
        reference = reference_functions(arguments.reference, cm, asv)
        print("Same numbers in both:")
        compare(ours, reference)
    print(f"{BONAFIDE + SPOOF:,} scores, medians of {arguments.repeats} runs:")
    for name, function in ours.items():
        sides = {"spooftrace": function} | ({"reference": reference[name]} if name in reference else {})
        times = medians(sides, arguments.repeats, clock)
        row = f"  {name:<30} spooftrace {1e3 * times['spooftrace']:8.1f} ms"
        if "reference" in times:
            row += (
                f"  reference {1e3 * times['reference']:8.1f} ms  ratio {times['reference'] / times['spooftrace']:.2f}"
            )
        print(row, flush=True)
    print(f"{arguments.rounds:,} bootstrap rounds, one run:")
    for name, function in intervals(cm, arguments.rounds, arguments.seed).items():
        start = clock()
        function()
        print(f"  {name:<32} {clock() - start:6.2f} s", flush=True)


if __name__ == "__main__":
    main()
