"""The command line of isanet example."""

from pathlib import Path

from isanet_jax.arguments import Parser, command


def parser() -> Parser:
    """The arguments of isanet example."""
    root = Parser(
        description="Fetches CT and PET of one public patient, whom no model of the package has "
        "seen: a soft-tissue sarcoma (CC BY 3.0)."
    )
    root.add_argument("-o", "--output", default="example", help="folder (default: example)")
    root.add_argument("--url", help="address of the files, below which the list's paths are")
    return root


def main(arguments=None) -> None:
    """Runs isanet example."""
    from isanet_jax.datasets import download

    args = parser().parse_args(arguments)
    print(download.STS_NOTICE, flush=True)
    download.download(args.output, download.example_files(), url=args.url or download.STS_URL)
    print(
        f"{Path(args.output) / download.EXAMPLE}; next: {command('predict')} --model sarcoma "
        f"-i {args.output} -o out"
    )
