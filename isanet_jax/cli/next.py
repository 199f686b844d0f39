"""The command line of isanet next."""

from isanet_jax.arguments import Parser
from isanet_jax.cli.label import add_desk, make_desk
from isanet_jax.errors import ConfigError

_STRATEGIES = ("first", "random", "uncertain", "unlike")


def parser() -> Parser:
    """The arguments of isanet next."""
    root = Parser(description="Ranks the scans without a mask: which to annotate first.")
    add_desk(root)
    root.add_argument(
        "--strategy", choices=_STRATEGIES, default="uncertain",
        help="uncertain: by the entropy of the networks' mean probability; unlike: least like "
        "those with masks; first; random (default: uncertain)",
    )  # fmt: skip
    root.add_argument("--seed", type=int, help="of random")
    root.add_argument("--most", type=int, default=10, help="how many are shown (default: 10)")
    return root


def main(arguments=None) -> None:
    """Runs isanet next."""
    args = parser().parse_args(arguments)
    if args.strategy == "uncertain" and not args.model:
        raise ConfigError("--strategy uncertain needs --model; or give --strategy unlike")
    desk = make_desk(args)
    ranked = desk.ranked(args.strategy, seed=args.seed)
    for case, score in ranked[: args.most]:
        print(case if score is None else f"{case}  {score:.2f}")
    print(f"{len(ranked)} of {len(desk.scans)} scans have no mask")
