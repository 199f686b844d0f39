"""The command line of eval.py."""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from isanet_jax.cli.prepare import parse_label_values
from isanet_jax.errors import ConfigError, DataError, failure_of


def parser() -> argparse.ArgumentParser:
    """The arguments of eval.py."""
    root = argparse.ArgumentParser(description="Scores a trained run, or anyone's masks.")
    root.add_argument(
        "--workdir",
        nargs="+",
        help="run whose best checkpoint is scored on its test fold; several are an ensemble (mean "
        "probability), scored on the cases that none of them has seen",
    )
    root.add_argument(
        "--checkpoint",
        default="best",
        choices=("best", "latest"),
        help="of each run: the one with the best validation DSC, or the last one (default: best)",
    )
    root.add_argument(
        "--cases", help="prepared cases: another cohort, or where they have moved since training"
    )
    root.add_argument("--predictions", help="folder of masks to score")
    root.add_argument("--references", help="folder of true masks with the same names")
    root.add_argument(
        "--label-values",
        default="1",
        metavar="V[,V]",
        help="values that are tumour in these masks (default: 1)",
    )
    root.add_argument("--output", help="folder for the results (default, of one run: WORKDIR/eval)")
    root.add_argument("--overwrite", action="store_true", help="replace earlier results there")
    return root


def main(arguments=None) -> None:
    """Runs eval.py."""
    args = parser().parse_args(arguments)
    if bool(args.workdir) == bool(args.predictions or args.references):
        raise ConfigError("give either --workdir, or --predictions and --references")
    if not args.workdir and not (args.predictions and args.references and args.output):
        raise ConfigError("give --predictions, --references and --output together")
    if args.workdir and len(args.workdir) > 1 and not args.output:
        raise ConfigError("give --output: the results of an ensemble belong to none of its runs")
    output = Path(args.output) if args.output else Path(args.workdir[0]) / "eval"
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file; name a folder")
    if (output / "metrics.json").exists() and not args.overwrite:
        raise DataError(
            "exists already",
            file=output / "metrics.json",
            action="Choose another --output or add --overwrite",
        )
    if args.workdir:
        workdirs = [Path(w) for w in args.workdir]
        evaluate_runs(workdirs, output, cases=args.cases, checkpoint=args.checkpoint)
    else:
        evaluate_masks(
            args.predictions, args.references, output, parse_label_values(args.label_values)
        )


def evaluate_runs(workdirs: list[Path], output: Path, *, cases=None, checkpoint="best") -> None:
    """Scores a run, or several as an ensemble, and writes metrics, pictures and a report.

    Raises:
        CheckpointError, ConfigError, DataError: see the functions called.
    """
    # Here: these import JAX and matplotlib, which --help does not need.
    from isanet_jax.cases.cohort import read_cohort
    from isanet_jax.evaluation import pictures, report
    from isanet_jax.evaluation.evaluate import NETWORK, score_run, unseen_cases
    from isanet_jax.files import write_csv
    from isanet_jax.prediction.predictor import Predictor
    from isanet_jax.training.config import check_cohort
    from isanet_jax.training.log import read_log

    predictor = Predictor(workdirs, checkpoint=checkpoint)
    descriptions = predictor.descriptions
    cohort = read_cohort(cases or descriptions[0]["config"]["data"]["cases"])
    check_cohort(descriptions[0]["config"], cohort)
    ids = unseen_cases(cohort, [description["split"] for description in descriptions])
    (output / "overlays").mkdir(parents=True, exist_ok=True)
    shown = {}

    with tqdm(total=len(ids), unit="case", disable=None) as bar:

        def on_case(case, stored, mask, of_method):
            metrics = of_method[NETWORK]
            shown[case] = f"overlays/{case}.png"
            pictures.overlay(
                output / shown[case],
                title=f"{case}: DSC {metrics['dsc']:.3f}, HD95 {metrics['hd95']:.1f} mm",
                ct_hu=stored.ct,
                pet_suv=stored.pet,
                reference=stored.label > 0,
                prediction=mask,
                spacing_mm=stored.meta["spacing_mm"],
            )
            bar.update()

        scores = score_run(predictor, cohort, ids, on_case)
    curves = []
    for number, workdir in enumerate(workdirs, start=1):
        curves.append("learning_curves.png" if number == 1 else f"learning_curves_{number}.png")
        pictures.learning_curves(output / curves[-1], read_log(workdir / "metrics.jsonl"))
    runs = report.describe_runs(descriptions, ids)
    methods = {
        grid: {
            method: {"cases": of, "summary": report.summarise(of)} for method, of in all_.items()
        }
        for grid, all_ in scores.items()
    }
    summary = report.write_metrics(
        output,
        scores["ct"][NETWORK],
        {
            "grid": "original CT grid",
            "runs": runs,
            "grids": methods,
        },
    )
    write_csv(output / "metrics.csv", [
        {"case": case, "grid": grid, "method": method, **metrics}
        for grid, all_ in scores.items()
        for method, of in all_.items()
        for case, metrics in of.items()
    ])  # fmt: skip
    report.write_run_report(
        output / "report.md",
        runs=runs,
        preparation=descriptions[0]["preparation"],
        scores=scores,
        pictures=shown,
        curves=curves,
    )
    # One network that was chosen on these cases makes the ensemble's figure optimistic.
    selection = "paper" if any(run["selection"] == "paper" for run in runs) else "nested"
    print(report.summary_table(scores["ct"]))
    print(
        f"\nmean DSC {summary['dsc']['mean']:.4f} on {len(ids)} cases, on the CT's own grid "
        f"(selection: {selection}). Report: {output / 'report.md'}"
    )


def evaluate_masks(predictions, references, output: Path, label_values) -> None:
    """Scores two folders of masks; every pair is tried before an error ends the run.

    Raises:
        DataError: pairs that cannot be scored, with the reason of each.
    """
    from isanet_jax.evaluation import report
    from isanet_jax.evaluation.evaluate import pair_masks, score_masks
    from isanet_jax.files import write_csv

    scores, failures = {}, []
    pairs = pair_masks(predictions, references)
    for name, (prediction, reference) in tqdm(pairs.items(), unit="case", disable=None):
        try:
            scores[name] = score_masks(name, prediction, reference, label_values)
        except Exception as error:
            error = failure_of(error, name, output / "errors.log")
            failures.append(str(error))
            print(f"error: {error}", file=sys.stderr)
    if failures:
        raise DataError("\n  ".join([f"{len(failures)} of {len(pairs)} pairs failed:", *failures]))
    report.write_metrics(output, scores, {})
    rows = [{"case": name, **metrics} for name, metrics in scores.items()]
    write_csv(output / "metrics.csv", rows)
    print(report.summary_table({"predictions": scores}))
    print(f"\nwritten to {output}")
