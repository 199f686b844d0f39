"""What the node does with a study: choose its images, predict, write, send."""

import dataclasses
import functools
import time
from pathlib import Path

import pydicom

from isanet_jax.datasets.layout import Scan
from isanet_jax.dicom.series import find_series
from isanet_jax.dicom.studies import Asked, Study, choose_images
from isanet_jax.errors import DataError, failure_of
from isanet_jax.node.private import identity_in, withhold
from isanet_jax.node.queue import Queue
from isanet_jax.node.sender import NotSent
from isanet_jax.prediction.formats import suffixes
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.prediction.result import predict, read_images
from isanet_jax.prediction.write import write_outputs

FORMATS = ("dicom-seg", "rtstruct")  # where none are asked for
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 600.0


class Worker:
    """Predicts and sends a queue's studies, one at a time.

    Args:
        queue: of the node.
        predictor: the networks.
        peers: what results are sent to, see `isanet_jax.node.sender`; of a study that was sent to
            none, nothing is noted.
        formats: some of `isanet_jax.prediction.formats.of_dicom`; None: `FORMATS`.
        keep_identity: results carry the patient's name, IDs and dates: a PACS files them by these.
        say: called with a line for each thing that is done.
        figures: `isanet_jax.node.figures.Figures` that counts it, or None.
    """

    def __init__(self, queue: Queue, predictor: Predictor, peers, *, formats=None,
                 keep_identity=False, say=print, figures=None):  # fmt: skip
        self.queue, self.predictor, self.peers = queue, predictor, list(peers)
        self.formats = FORMATS if formats is None else formats
        self.keep_identity, self.figures = keep_identity, figures
        self.say = lambda text: say(withhold(text))
        self._pauses = {}  # key -> (when it is tried again, the pause after that)

    def step(self, quiet_s: float) -> bool:
        """Does what there is to do; whether there was anything."""
        if self.figures is not None:
            self.figures.begin_step()
        told = self.queue.settle(quiet_s)
        for key, text in told:
            self.say(f"{key}: {text}")
        self.queue.prune()
        key = self.queue.next_waiting()
        if key is not None:
            self.predict(key)
        due = [key for key in self.queue.to_send() if self._is_due(key)]
        # Until one is not taken: a peer that is away would hold up the next prediction by its
        # silence, once for each study.
        all(self.send(key) for key in due)
        return bool(told or key or due)

    def predict(self, key: str) -> None:
        """Predicts a waiting study: its results are ready then, or it failed.

        Raises:
            DataError, OSError: the disk is full; the study goes on waiting.
        """
        started, results = time.monotonic(), self.queue.new_results(key)
        try:
            prediction = dataclasses.replace(
                self._prediction(key), superseded=self.queue.outputs_of(key)
            )
            paths = {kind: results / f"result{suffixes()[kind]}" for kind in self.formats}
            # A structure set or segmentation of nothing is none: the record says so.
            if prediction.mask.any():
                write_outputs(prediction, paths, keep_identity=self.keep_identity)
            found = prediction.lesions()
        except Exception as error:  # whatever it is, it is this study's, and the node goes on
            if not self.queue.has_disk():
                raise
            clean = functools.partial(withhold, identity=self._identity(key))
            log = self.queue.folder / "errors.log"
            self._fail(key, "waiting", clean(str(failure_of(error, key, log, clean=clean))))
            return
        seconds = round(time.monotonic() - started, 1)
        identity = self._identity(key)
        told = [withhold(text, identity) for text in prediction.warnings]
        about = {"seconds": seconds, "lesions": len(found), "warnings": told}
        about["outputs"] = {kind: _uids(path) for kind, path in paths.items() if path.exists()}
        about["volume_ml"] = round(sum(row["mtv_ml"] for row in found), 2)
        about["slices"] = {
            name: volume.data.shape[2] for name, volume in prediction.images.volumes.items()
        }
        self.queue.ready(key, results, about)
        of = " and ".join(f"{count} {name}" for name, count in about["slices"].items())
        self.say(
            f"{key}: {len(found)} lesion(s), {about['volume_ml']} ml, of {of} slices, in {seconds} "
            "s"
        )
        for text in told:
            self.say(f"{key}: {text}")
        self._count("predicted")
        if self.figures is not None:
            self.figures.seconds.observe(seconds)

    def _identity(self, key):
        """What of the patient no line may hold, from one of a waiting study's files."""
        path = next(iter(self.queue.images_of(key)), None)
        return identity_in(path) if path else set()

    def _fail(self, key, state, reason):
        self.queue.fail(key, state, reason)
        self.say(f"{key}: failed: {reason}")
        self._count("failed")

    def _count(self, outcome):
        if self.figures is not None:
            self.figures.studies.labels(outcome).inc()

    def _prediction(self, key):
        kinds = self.predictor.settings.images
        series, _ = find_series(self.queue.folder / "waiting" / key)
        lacking = {kind.upper() for kind in kinds.values()} - {one.kind for one in series}
        if lacking:
            raise DataError(
                f"no {' and '.join(sorted(lacking))} series among "
                f"{', '.join(one.describe() for one in series)}",
                case=key,
                wanted="one of each image that the model takes",
                action="Send what is lacking: it is put together with what has come",
            )
        asked = Asked(images=kinds)
        asked.check()
        chosen, notes = choose_images(key, series, asked)
        study = Study(key, key, chosen, None, {}, (), tuple(notes))
        scan = Scan(key, dict.fromkeys(kinds, Path(key)), None, key, study=study)
        images = read_images(scan, kinds)
        (outcome,) = predict(self.predictor, [images])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _is_due(self, key):
        return time.monotonic() >= self._pauses.get(key, (0, 0))[0]

    def send(self, key: str) -> bool:
        """Sends a ready study's results to every peer; whether all were taken.

        A peer that is away, or refuses one of them, holds up neither the others nor the rest.

        Of what was being sent when the node was killed, the peer is asked whether it has it. Where
        it cannot say so, it gets the same instance again, with the same UID.
        """
        folder = self.queue.folder / "ready" / key
        waits, refused, away = None, None, set()
        for path in sorted(folder.glob("*.dcm")):
            for peer in self.peers:
                name = f"{path.name} {peer.name}"
                state = self.queue.job(key).get("sent", {}).get(name)
                if state == "sent" or peer in away:
                    continue
                try:
                    if not (state == "sending" and peer.has(path)):
                        self.queue.set_sent(key, name, "sending")
                        peer.send(path)
                except NotSent as error:
                    if error.is_known:
                        self.queue.set_sent(key, name, "refused")
                    if error.final:  # of this result and this peer alone
                        refused = refused or error
                    else:
                        waits = waits or error
                        away.add(peer)
                    continue
                self.queue.set_sent(key, name, "sent")
        if waits:
            pause = self._pauses.get(key, (0, _FIRST_PAUSE_S))[1]
            following = min(2 * pause, _LONGEST_PAUSE_S)
            self._pauses[key] = time.monotonic() + pause, following
            self.say(f"{key}: not sent, again in {pause:.0f} s: {waits}")
            return False
        if refused:
            self._fail(key, "ready", withhold(str(refused)))
            return False
        self.queue.done(key)
        self._pauses.pop(key, None)
        self.say(f"{key}: sent")
        self._count("sent")
        return True


def _uids(path):
    """(Series, SOP Instance UID) of an output."""
    header = pydicom.dcmread(path, specific_tags=["SeriesInstanceUID", "SOPInstanceUID"])
    return [str(header.SeriesInstanceUID), str(header.SOPInstanceUID)]
