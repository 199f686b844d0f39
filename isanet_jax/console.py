"""What the programs share on the command line."""

import sys

from isanet_jax.errors import IsaNetError


def run(program) -> None:
    """Runs a program; an error that is the user's to resolve ends it with one line and status 2."""
    try:
        program()
    except IsaNetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
