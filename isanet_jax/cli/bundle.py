"""The command line of `isanet bundle`."""

from pathlib import Path

from isanet_jax.arguments import Parser, command, image_flags
from isanet_jax.runtime import say_devices


def parser() -> Parser:
    """The arguments of isanet bundle."""
    root = Parser(
        description="Makes one file of a run's network, or of several as an ensemble: weights, "
        "settings, rules and a card. It holds no code, no case's ID and no folder, and is given to "
        "predict and eval in a run's place.",
    )
    root.add_argument(
        "--workdir", required=True, nargs="+", help="one run, several, or models to put together"
    )
    root.add_argument("--output", required=True, help="file to write, NAME.isanet")
    root.add_argument("--checkpoint", default="best", choices=("best", "latest"))
    root.add_argument("--rules", help="file of isanet tune, applied whenever the model predicts")
    for name, what in (
        ("intended-use", "what it is for"),
        ("limits", "where it is known to fail"),
        ("licence", "under which it may be used"),
        ("citation", "what to cite"),
    ):
        root.add_argument(f"--{name}", metavar="TEXT", help=f"for the card: {what}")
    root.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return root


def main(arguments=None) -> None:
    """Runs isanet bundle."""
    args = parser().parse_args(arguments)
    from isanet_jax.evaluation.report import read_metrics
    from isanet_jax.prediction.predictor import Predictor  # imports JAX
    from isanet_jax.prediction.rules import write_form
    from isanet_jax.runs.bundle import read_bundle, write_bundle

    say_devices()
    predictor = Predictor(args.workdir, checkpoint=args.checkpoint, rules=args.rules)
    metrics = []
    for workdir in args.workdir:
        path = Path(workdir) / "eval" / "metrics.json"
        if path.is_file():
            metrics.append(read_metrics(path))
    about = {
        name: getattr(args, name) for name in ("intended_use", "limits", "licence", "citation")
    }
    output = write_bundle(
        predictor.networks,
        args.output,
        rules=args.rules and write_form(predictor.rules),
        about=about,
        metrics=metrics,
        overwrite=args.overwrite,
    )
    count = len(read_bundle(output).networks)  # as whoever gets it
    print(
        f"{output}: {count} network(s), {output.stat().st_size / 2**20:.1f} MiB; next: "
        f"{command('predict')} --workdir {output} {image_flags(predictor.settings.images)} "
        "--output MASK"
    )
