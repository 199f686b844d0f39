"""The command line of isanet eval."""

from pathlib import Path

from isanet_jax.arguments import Parser
from isanet_jax.classes import TUMOUR, Classes, parse_classes
from isanet_jax.cli.prepare import parse_label_values
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.evaluation.runs import evaluate_masks, evaluate_runs
from isanet_jax.files import check_folder, is_bundle
from isanet_jax.runtime import say_devices


def parser() -> Parser:
    """The arguments of isanet eval."""
    root = Parser(description="Scores a trained run, or anyone's masks.")
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
        "--pet",
        help="folder of PETs in SUV with the same names: the tumour burden's agreement, too",
    )
    root.add_argument(
        "--label-values",
        default="1",
        metavar="V[,V]",
        help="values that are tumour in these masks, one class (default: 1)",
    )
    root.add_argument(
        "--classes",
        metavar="NAME=V[,V]",
        nargs="+",
        help="several classes of these masks by name, as in gtvp=1 gtvn=2",
    )
    root.add_argument(
        "--ignore", metavar="V[,V]", help="values of the references to leave out of the metrics"
    )
    root.add_argument("--rules", help="of a run: file of isanet tune; the report says so")
    root.add_argument("--output", help="folder for the results (default, of one run: WORKDIR/eval)")
    root.add_argument("--overwrite", action="store_true", help="replace earlier results there")
    return root


def main(arguments=None) -> None:
    """Runs isanet eval."""
    args = parser().parse_args(arguments)
    if bool(args.workdir) == bool(args.predictions or args.references):
        raise ConfigError("give either --workdir, or --predictions and --references")
    if not args.workdir and not (args.predictions and args.references and args.output):
        raise ConfigError("give --predictions, --references and --output together")
    is_model = args.workdir and is_bundle(args.workdir[0])
    if args.workdir and (len(args.workdir) > 1 or is_model) and not args.output:
        raise ConfigError("give --output: the results of an ensemble belong to none of its runs")
    output = Path(args.output) if args.output else Path(args.workdir[0]) / "eval"
    check_folder(output)
    if (output / "metrics.json").exists() and not args.overwrite:
        raise DataError(
            "exists already",
            file=output / "metrics.json",
            action="Choose another --output or add --overwrite",
        )
    if args.workdir:
        say_devices()
        workdirs = [Path(w) for w in args.workdir]
        options = {"cases": args.cases, "checkpoint": args.checkpoint, "rules": args.rules}
        evaluate_runs(workdirs, output, **options)
    else:
        values = {TUMOUR: parse_label_values(args.label_values)}
        classes = parse_classes(args.classes) if args.classes else values
        ignore = parse_label_values(args.ignore, "--ignore") or ()
        evaluate_masks(
            args.predictions, args.references, output, Classes(classes, ignore), pet=args.pet
        )
