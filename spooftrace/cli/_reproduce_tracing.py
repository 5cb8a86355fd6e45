"""The targets of `spooftrace reproduce` that are about source tracing."""

import argparse
from pathlib import Path


TARGETS = (*(f"sastnet-table{number}" for number in range(1, 5)), *(f"sastnet-figure{n}" for n in range(2, 5)))


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    """Trains or takes, scores, tells; 3 where a row has no model, a corpus is absent or a clip could not be read."""
    from spooftrace.trainers.reproduce_tracing import TracingReproduction

    plan = TracingReproduction(
        args.target,
        args.data,
        args.out or Path("reproduce") / "sastnet",
        args.checkpoints,
        tuple(args.only),
        bool(args.random),
        tuple(overrides),
        args.device,
        args.batch_size,
        args.overwrite,
    )
    return _explain(plan, tuple(args.clips or ())) if args.target == "sastnet-figure4" else _measure(plan)


def _measure(plan) -> int:
    from spooftrace.trainers.reproduce_tracing import absent_sets, reproduce_tracing
    from spooftrace.trainers.tracing_report import report, silence_effects, silence_text, source_tables

    done = reproduce_tracing(plan)
    print(report(plan, done))
    if any(row.sources for row in done):
        path = plan.out / f"{plan.target}-sources.txt"
        path.write_text(source_tables(done) + "\n", encoding="utf-8")
        print(f"{path}: by codec and generator")
    if plan.target == "sastnet-figure2":
        print(silence_text(silence_effects(done)))
    _draw(plan, done)
    return 0 if all(row.is_complete for row in done) and not absent_sets(plan) else 3


def _draw(plan, done) -> None:
    if plan.target not in ("sastnet-figure2", "sastnet-figure3"):
        return
    from spooftrace.trainers.tracing_figures import draw_confusions, draw_silence

    folder = plan.out / plan.target
    if plan.target == "sastnet-figure3":
        paths = draw_confusions(folder, done)
    else:
        names = dict.fromkeys(name for row in done for found in row.sources.values() for name in found)
        paths = [draw_silence(folder / f"{name}.png", done, name) for name in names]
    print(f"{folder}: {len(paths)} figures")


def _explain(plan, clips: tuple[str, ...]) -> int:
    from spooftrace.trainers.tracing_explanations import explain, explanation_text

    done, without = explain(plan, clips)
    print("".join(f"{explanation_text(found)}\n" for found in done), end="")
    print("".join(f"{name}: no checkpoint was given for it\n" for name in without), end="")
    return 3 if without else 0
