"""The command line of isanet label."""

import os
import re

from isanet_jax import models
from isanet_jax.arguments import Parser
from isanet_jax.errors import ConfigError
from isanet_jax.files import check_folder

TOKEN = "ISANET_LABEL_TOKEN"  # a variable: a command line is seen by all  # noqa: S105
_LEAST_TOKEN = 16  # characters
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_desk(root: Parser) -> None:
    """Adds what makes a desk: scans, a model, a folder."""
    root.add_argument(
        "--cases", required=True, nargs="+", metavar="SOURCE",
        help="scans, as isanet predict --input takes them",
    )  # fmt: skip
    root.add_argument(
        "--model", type=models.resolve, nargs="+",
        help="name of a model (isanet models), file of isanet bundle, or runs (default: none yet)",
    )  # fmt: skip
    root.add_argument(
        "-o", "--output", default="labels", help="folder of the masks (default: labels)"
    )
    root.add_argument(
        "--classes", nargs="+", metavar="NAME=V", help="without a model: what masks hold "
        "(default: tumour=1)",
    )  # fmt: skip


def make_desk(args):
    """The desk of these arguments."""
    from isanet_jax.annotate.desk import Desk
    from isanet_jax.classes import parse_classes

    check_folder(args.output)
    predictor = None
    if args.model:
        from isanet_jax.prediction.predictor import Predictor  # imports JAX

        predictor = Predictor(args.model)
    classes = parse_classes(args.classes) if args.classes else None
    return Desk(args.cases, args.output, predictor, classes=classes)


def parser() -> Parser:
    """The arguments of isanet label."""
    root = Parser(
        description="A server over scans, for 3D Slicer, OHIF, MITK and napari (MONAI Label's "
        "protocol): masks of the network and of clicks go out, corrected ones come in, and every "
        "version stays. It listens on loopback; elsewhere only with a token.",
    )
    add_desk(root)
    root.add_argument("--host", default="127.0.0.1", help="address (default: loopback)")
    root.add_argument("--port", type=int, default=8000)
    root.add_argument(
        "--origin", nargs="+", default=[], metavar="URL",
        help="pages that may ask, as OHIF's http://localhost:3000 (default: its own alone)",
    )  # fmt: skip
    root.add_argument("--tls-cert", metavar="PEM", help="its certificate")
    root.add_argument("--tls-key", metavar="PEM", help="of the certificate")
    return root


def main(arguments=None) -> None:
    """Runs isanet label."""
    args = parser().parse_args(arguments)
    try:
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise ConfigError(
            f"the server needs the package {error.name}: pip install 'isanet_jax[label]'"
        ) from error
    from isanet_jax.annotate.server import Server
    from isanet_jax.locks import only_here

    token = os.environ.get(TOKEN) or None
    if args.host not in _LOOPBACK and token is None:
        raise ConfigError(
            f"--host is {args.host}: whoever reaches it would reach the scans. Set the variable "
            f"{TOKEN} to a secret, and give --tls-cert and --tls-key"
        )
    if token is not None and not re.fullmatch(rf"[\x21-\x7e]{{{_LEAST_TOKEN},}}", token):
        raise ConfigError(f"{TOKEN} is too short: {_LEAST_TOKEN} characters or more, no blanks")
    for origin in args.origin:
        if not re.fullmatch(r"https?://[\w.:\[\]-]+", origin):
            raise ConfigError(f"--origin {origin!r}: as http://localhost:3000, without a path")
    if bool(args.tls_cert) != bool(args.tls_key):
        raise ConfigError("--tls-cert and --tls-key belong together")
    with only_here(args.output, "label", "is a server there"):
        desk = make_desk(args)
        for case, reason in desk.failures.items():
            print(f"warning: {case}: {reason}")
        server = Server(
            desk, hosts=(*_LOOPBACK, args.host), token=token, origins=args.origin, model=args.model
        )
        done = len(desk.labels.cases("final"))
        scheme = "https" if args.tls_cert else "http"
        print(
            f"{len(desk.scans)} scans, {done} with masks; {scheme}://{args.host}:{args.port}; "
            f"masks are kept in {args.output}/labels",
            flush=True,
        )
        desk.prepare_for_clicks()
        try:
            uvicorn.run(
                server.app, host=args.host, port=args.port, log_level="warning",
                ssl_certfile=args.tls_cert, ssl_keyfile=args.tls_key, server_header=False,
                timeout_keep_alive=10, limit_concurrency=64,
            )  # fmt: skip
        finally:
            server.close()
