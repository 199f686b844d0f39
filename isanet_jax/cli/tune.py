"""The command line of `isanet tune`."""

from pathlib import Path

from isanet_jax.arguments import Parser, command
from isanet_jax.errors import ConfigError
from isanet_jax.files import check_new
from isanet_jax.runtime import say_devices


def parser() -> Parser:
    """The arguments of isanet tune."""
    root = Parser(
        description="Chooses threshold, smallest lesion, least SUVmax and largest component, class "
        "by class, on the cases that runs were tested on.",
    )
    root.add_argument(
        "--workdir", required=True, nargs="+", help="the runs of a cross-validation, or one"
    )
    root.add_argument(
        "--metric",
        default="dsc",
        choices=("dsc", "lesion_f1", "autopet"),
        help="that is to be best: mean DSC, mean lesion F1, or the ranks of autoPET's DSC, false "
        "positive and false negative volumes (default: dsc)",
    )
    root.add_argument(
        "--on",
        default="test",
        choices=("test", "selection"),
        help="each run's test fold (of a whole cross-validation, every case once), or the cases "
        "that its checkpoint was chosen on, which leaves its test fold unseen (default: test)",
    )
    root.add_argument(
        "--output", help="file of the rules (default, of one run: WORKDIR/rules.json)"
    )
    root.add_argument("--cases", help="prepared cases, where they have moved since training")
    root.add_argument("--checkpoint", default="best", choices=("best", "latest"))
    root.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return root


def main(arguments=None) -> None:
    """Runs isanet tune."""
    args = parser().parse_args(arguments)
    if len(args.workdir) > 1 and not args.output:
        raise ConfigError("give --output: the rules of several runs belong to none of them")
    output = Path(args.output) if args.output else Path(args.workdir[0]) / "rules.json"
    check_new(output, overwrite=args.overwrite)
    from isanet_jax.evaluation.tune import describe, tune_runs

    say_devices()
    workdirs = [Path(w) for w in args.workdir]
    options = {"metric": args.metric, "role": args.on, "cases": args.cases}
    options["checkpoint"] = args.checkpoint
    content = tune_runs(workdirs, output, **options)
    print(describe(content))
    print(
        f"\n{output}: chosen on {len(content['cases'])} cases by {args.metric}, which makes their "
        f"figures optimistic. {command('predict')} and {command('eval')} take it with --rules"
    )
