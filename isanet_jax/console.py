"""What the programs share on the command line."""

import errno
import sys

from isanet_jax.errors import IsaNetError

_FROM_OUTSIDE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def run(program) -> None:
    """Runs a program; an error that is the user's to resolve ends it with one line and status 2."""
    try:
        program()
    except IsaNetError as error:
        _end(error)
    except OSError as error:
        if error.errno not in _FROM_OUTSIDE:
            raise
        _end(f"{error}. Free space or choose another folder, then run the same command again")
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)


def _end(error):
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
