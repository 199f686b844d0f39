"""The command line of isanet models."""

from isanet_jax import models
from isanet_jax.arguments import Parser


def parser() -> Parser:
    """The arguments of isanet models."""
    root = Parser(description="Lists the trained models that come with the package.")
    root.add_argument("name", nargs="?", help="show the card of this one")
    return root


def main(arguments=None) -> None:
    """Runs isanet models."""
    from isanet_jax.errors import ConfigError
    from isanet_jax.runs.bundle import read_bundle  # imports JAX

    args = parser().parse_args(arguments)
    if args.name and args.name not in models.names():
        raise ConfigError(f"no model {args.name!r}; there are {', '.join(models.names())}")
    if args.name:
        print(read_bundle(models.resolve(args.name)).card)
        return
    for name in models.names():
        path = models.resolve(name)
        bundle = read_bundle(path)
        described = [description for description, _ in bundle.networks]
        images = ", ".join(described[0]["preparation"]["images"])
        use = bundle.card.partition("## Intended use")[2].strip().partition("\n")[0]
        print(
            f"{name}: {len(described)} network(s) of {images}, {path.stat().st_size / 1e6:.1f} MB\n"
            f"  {use}\n  isanet predict --model {name} -i IN -o OUT; isanet models {name}"
        )
