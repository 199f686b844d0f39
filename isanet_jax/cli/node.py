"""The command line of `isanet node`."""

import difflib
import os
import re
import signal
import sys
import threading
import time
import tomllib
from pathlib import Path

from isanet_jax import models
from isanet_jax.arguments import Parser
from isanet_jax.errors import ConfigError, IsaNetError
from isanet_jax.machine import GIB
from isanet_jax.prediction.formats import of_dicom
from isanet_jax.runtime import say_devices, stop_signals

_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?")
_PAUSE_S = 30.0  # after what no study is to blame for
_PEER = re.compile(r"(?P<host>[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):(?P<port>\d+):(?P<aet>.+)")


def parser() -> Parser:
    """The arguments of isanet node."""
    root = Parser(
        description="A DICOM node: takes studies by C-STORE, waits until nothing more of them "
        "comes, predicts, and sends SEG and RTSTRUCT back. Its queue is on disk: the same command "
        "resumes after whatever ended it. For research; what it sends is not a diagnosis.",
    )
    root.add_argument(
        "--config", metavar="TOML", help="file of these options, which those given here override"
    )
    root.add_argument(
        "--model", type=models.resolve, nargs="+",
        help="name of one (isanet models), file of isanet bundle, or runs",
    )  # fmt: skip
    root.add_argument("--folder", default="node", help="of its queue (default: node)")
    root.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: loopback)"
    )
    root.add_argument("--port", type=int, default=11112)
    root.add_argument("--aet", default="ISANET", help="its title (default: ISANET)")
    root.add_argument("--accept", nargs="+", metavar="AET", help="titles it takes studies from")
    root.add_argument(
        "--to", action="append", default=[], metavar="HOST:PORT:AET", help="where results go"
    )
    root.add_argument(
        "--stow", action="append", default=[], metavar="URL", help="or, DICOMweb: .../studies"
    )
    root.add_argument(
        "--format",
        nargs="+",
        choices=of_dicom(),
        default=["dicom-seg", "rtstruct"],
        help="of the results (default: dicom-seg rtstruct); dicom-sr needs dicom-seg",
    )
    root.add_argument(
        "--keep-identity",
        action="store_true",
        help="results carry the patient's name, IDs and dates, by which a PACS files them",
    )
    root.add_argument(
        "--quiet-s",
        type=float,
        default=60.0,
        help="seconds without a new instance, after which a study counts as complete (default: 60)",
    )
    root.add_argument("--status-port", type=int, default=11113, help="of the page, on loopback")
    root.add_argument(
        "--metrics", metavar="HOST:PORT", help="address of /healthz and /metrics (Prometheus)"
    )
    root.add_argument("--most-gib", type=float, default=50.0, help="of images kept (default: 50)")
    root.add_argument("--least-free-gib", type=float, default=2.0, help="of the disk (default: 2)")
    root.add_argument("--tls-cert", metavar="PEM", help="its certificate: it then takes TLS only")
    root.add_argument("--tls-key", metavar="PEM", help="of the certificate")
    root.add_argument("--tls-ca", metavar="PEM", help="whose certificates others must have")
    root.add_argument(
        "--look-up", metavar="NUMBER",
        help="say what is in --folder of this accession number, Patient ID or study, and end",
    )  # fmt: skip
    return root


def main(arguments=None) -> None:
    """Runs isanet node."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    args = parser().parse_args(given)
    if args.config:
        args = parser().parse_args([*_options_of(args.config), *given])
    if args.look_up:
        _look_up(args.folder, args.look_up)
        return
    for name in ("model", "accept"):
        if not getattr(args, name):
            raise ConfigError(f"give --{name}, or {name} in the file of --config")
    try:
        import prometheus_client  # noqa: F401
        import pynetdicom  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"the node needs the package {error.name}: pip install 'isanet_jax[node]'"
        ) from error
    from isanet_jax.locks import only_here

    for title in (args.aet, *args.accept):
        if not _TITLE.fullmatch(title):
            raise ConfigError(f"{title!r} is not an AE title: at most 16 characters, no backslash")
    if "dicom-sr" in args.format and "dicom-seg" not in args.format:
        raise ConfigError("--format dicom-sr refers to the segments of dicom-seg; give both")
    peers, metrics = _peers(args), _address(args.metrics)
    os.umask(0o077)  # what it writes is its user's alone
    with only_here(args.folder, "node", "is a node there"):
        _run(args, peers, metrics)


def _options_of(file):
    """A TOML file's options as a command line's words."""
    try:
        content = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"--config {file} is no TOML ({error})") from error
    options = {word[2:]: one for one in parser().options for word in one.option_strings}
    words = []
    for name, value in content.items():
        flag = name.replace("_", "-")
        if flag not in options or flag in ("config", "help", "look-up"):
            near = difflib.get_close_matches(flag, options, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(options)}"
            raise ConfigError(f"{file}: no option {name!r}{hint}")
        many, is_flag = isinstance(value, list), options[flag].nargs == 0
        values = value if many else [value]
        if is_flag is not isinstance(value, bool) or any(
            isinstance(v, (dict, list)) for v in values
        ):
            wanted = "true or false" if is_flag else "text, a number, or a list of these"
            raise ConfigError(f"{file}: {name} = {value!r}; expected {wanted}")
        if is_flag:
            words += [f"--{flag}"] * value
        elif options[flag].nargs == "+":
            words += [f"--{flag}", *map(str, values)]
        else:
            words += [f"--{flag}={one}" for one in values]
    return words


def _look_up(folder, text):
    from isanet_jax.node.queue import look_up

    found = list(look_up(folder, text))
    for state, key, record in found:
        about = [record[name] for name in ("at", "reason") if record.get(name)]
        print(": ".join([f"{state} {key}", *about]))
    if not found:
        raise ConfigError(f"nothing in {folder} is of this accession number, Patient ID or study")


def _address(text):
    """(host, port) of HOST:PORT; None of None."""
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--metrics is {text!r}; give HOST:PORT")
    return host.strip("[]"), int(port)


def _run(args, peers, metrics):
    from isanet_jax.node import figures as of_node
    from isanet_jax.node.private import withhold_of_libraries
    from isanet_jax.node.queue import Queue
    from isanet_jax.node.receiver import listen
    from isanet_jax.node.status import serve
    from isanet_jax.node.worker import Worker
    from isanet_jax.prediction.predictor import Predictor  # imports JAX

    say_devices()
    predictor = Predictor(args.model)
    room = {"most_bytes": int(args.most_gib * GIB), "least_free": args.least_free_gib * GIB}
    queue = Queue(args.folder, **room)
    figures = of_node.Figures(queue)
    worker = Worker(
        queue, predictor, peers, formats=args.format, keep_identity=args.keep_identity, say=_say,
        figures=figures,
    )  # fmt: skip
    withhold_of_libraries(_say)
    stop = threading.Event()
    for one in stop_signals():
        signal.signal(one, lambda *_: stop.set())
    server = page = health = None
    try:
        server = listen(queue, (args.host, args.port), args.aet, args.accept, tls=_tls(args),
                        say=_say, figures=figures)  # fmt: skip
        if metrics:
            health = of_node.serve(figures, *metrics)
        page = serve(queue, args.status_port, f"isanet node {args.aet}")
        _say(
            f"{args.aet} listens at {args.host}:{args.port}; "
            f"http://127.0.0.1:{args.status_port}/status"
        )
        while not stop.is_set():
            try:
                is_idle = not worker.step(args.quiet_s)
            except (IsaNetError, OSError) as error:  # a full disk: all is as it was before the step
                _say(f"again in {_PAUSE_S:.0f} s: {error}")
                stop.wait(_PAUSE_S)
                continue
            if is_idle:
                stop.wait(min(1.0, args.quiet_s / 4))
        _say("stopped; run the same command to resume")
    except OSError as error:
        raise ConfigError(
            f"the node cannot listen ({error.strerror or error}): ports {args.port} and "
            f"{args.status_port}, and --metrics, must be free"
        ) from error
    finally:
        for one in (server, page, health):
            if one is not None:
                one.shutdown()
                one.server_close()


def _peers(args):
    from isanet_jax.node.sender import Peer, Web

    peers, tls = [], _tls(args, of_server=False)
    for text in args.to:
        match = _PEER.fullmatch(text)
        if match is None or not _TITLE.fullmatch(match["aet"]):
            raise ConfigError(f"--to is {text!r}; give HOST:PORT:AET")
        host = match["host"].strip("[]")
        peers.append(Peer(host, int(match["port"]), match["aet"], args.aet, tls))
    for url in args.stow:
        web = Web(url.rstrip("/"), tls)
        web.check()
        peers.append(web)
    if not peers:
        raise ConfigError("give --to HOST:PORT:AET or --stow URL: where results go")
    return peers


def _tls(args, *, of_server=True):
    """Returns TLS for the server or its peers; None where the node has no certificate."""
    import ssl

    if not args.tls_cert:
        if args.tls_key or args.tls_ca:
            raise ConfigError("--tls-key and --tls-ca belong to --tls-cert, which is not given")
        return None
    purpose = ssl.Purpose.CLIENT_AUTH if of_server else ssl.Purpose.SERVER_AUTH
    try:
        context = ssl.create_default_context(purpose, cafile=args.tls_ca)
        context.load_cert_chain(args.tls_cert, args.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the certificate cannot be used ({error})") from error
    if args.tls_ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _say(text):
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)
