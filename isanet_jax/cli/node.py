"""The command line of `isanet node`."""

import re
import signal
import threading
import time

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
    root.add_argument("--model", required=True, nargs="+", help="of isanet bundle, or runs")
    root.add_argument("--folder", default="node", help="of its queue (default: node)")
    root.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: loopback)"
    )
    root.add_argument("--port", type=int, default=11112)
    root.add_argument("--aet", default="ISANET", help="its title (default: ISANET)")
    root.add_argument(
        "--accept", required=True, nargs="+", metavar="AET", help="titles it takes studies from"
    )
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
        default=of_dicom(),
        help="of the results (default: both)",
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
    root.add_argument("--most-gib", type=float, default=50.0, help="of images kept (default: 50)")
    root.add_argument("--least-free-gib", type=float, default=2.0, help="of the disk (default: 2)")
    root.add_argument("--tls-cert", metavar="PEM", help="its certificate: it then takes TLS only")
    root.add_argument("--tls-key", metavar="PEM", help="of the certificate")
    root.add_argument("--tls-ca", metavar="PEM", help="whose certificates others must have")
    return root


def main(arguments=None) -> None:
    """Runs isanet node."""
    args = parser().parse_args(arguments)
    try:
        import pynetdicom  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "the node needs the package pynetdicom: pip install 'isanet_jax[node]'"
        ) from error
    from isanet_jax.locks import only_here

    for title in (args.aet, *args.accept):
        if not _TITLE.fullmatch(title):
            raise ConfigError(f"{title!r} is not an AE title: at most 16 characters, no backslash")
    peers = _peers(args)
    with only_here(args.folder, "node", "is a node there"):
        _run(args, peers)


def _run(args, peers):
    from isanet_jax.node.queue import Queue
    from isanet_jax.node.receiver import listen
    from isanet_jax.node.status import serve
    from isanet_jax.node.worker import Worker
    from isanet_jax.prediction.predictor import Predictor  # imports JAX

    say_devices()
    predictor = Predictor(args.model)
    room = {"most_bytes": int(args.most_gib * GIB), "least_free": args.least_free_gib * GIB}
    queue = Queue(args.folder, **room)
    worker = Worker(
        queue, predictor, peers, formats=args.format, keep_identity=args.keep_identity, say=_say
    )
    stop = threading.Event()
    for one in stop_signals():
        signal.signal(one, lambda *_: stop.set())
    server = page = None
    try:
        server = listen(queue, (args.host, args.port), args.aet, args.accept, tls=_tls(args))
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
            f"the node cannot listen ({error.strerror}): ports {args.port} and {args.status_port} "
            "must be free"
        ) from error
    finally:
        for one in (server, page):
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
