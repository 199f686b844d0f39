"""The command line of `isanet export`."""

from isanet_jax.arguments import Parser, command
from isanet_jax.datasets.layout import PET_CT
from isanet_jax.export import FORMATS
from isanet_jax.runtime import say_devices


def parser() -> Parser:
    """The arguments of isanet export."""
    root = Parser(
        description="Writes trained networks for programs without JAX: ONNX files with the images' "
        "normalisation inside, and isanet_onnx.py, which predicts with them by numpy, scipy, "
        "nibabel and onnxruntime alone. Beside them the same as StableHLO.",
    )
    root.add_argument(
        "--workdir", required=True, nargs="+", help="a run, several as an ensemble, or a model"
    )
    root.add_argument("--output", required=True, help="folder to write")
    root.add_argument(
        "--format",
        nargs="+",
        choices=FORMATS,
        default=list(FORMATS),
        help="what to write (default: both)",
    )
    root.add_argument("--checkpoint", default="best", choices=("best", "latest"))
    root.add_argument("--rules", help="file of isanet tune, applied by isanet_onnx.py")
    root.add_argument(
        "--no-check",
        action="store_true",
        help="do not run the ONNX networks beside JAX's (both at full size: a minute at 144^3)",
    )
    root.add_argument("--overwrite", action="store_true", help="replace a model that is there")
    return root


def main(arguments=None) -> None:
    """Runs isanet export."""
    args = parser().parse_args(arguments)
    from isanet_jax.export.model import write_model
    from isanet_jax.prediction.predictor import Predictor  # imports JAX

    say_devices()
    predictor = Predictor(args.workdir, checkpoint=args.checkpoint, rules=args.rules)
    written = write_model(
        predictor,
        args.output,
        formats=args.format,
        check=not args.no_check,
        overwrite=args.overwrite,
    )
    for made in written:
        text = f"{args.output}/{made['file']}: {made['bytes'] / 2**20:.1f} MiB"
        if "opset" in made:
            text += f", {made['nodes']} operations of opset {made['opset']}"
        if made["difference"] is not None:
            text += f"; probabilities differ from JAX's by at most {made['difference']:.1e}"
        print(text)
    if "onnx" in args.format:
        images = " ".join(
            f"--{n} {n.upper()}" if n in PET_CT else f"--image {n}=FILE"
            for n in predictor.settings.images
        )
        print(f"next: python {args.output}/isanet_onnx.py {images} --output mask.nii.gz")
    else:
        print(f"to look at a scan in this program: {command('predict')} --workdir ...")
