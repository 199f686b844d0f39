"""MONAI Label's protocol over a desk, as 3D Slicer, OHIF, MITK and napari speak it."""

import contextlib
import hmac
import json
import secrets
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Route

import isanet_jax
from isanet_jax.annotate import page
from isanet_jax.annotate.desk import STRATEGIES, Desk
from isanet_jax.annotate.guard import COOKIE, Guard
from isanet_jax.annotate.learn import EPOCHS, Training
from isanet_jax.cases.grid import resample
from isanet_jax.errors import DataError, IsaNetError
from isanet_jax.nifti import as_small, write_volume
from isanet_jax.prediction.formats import FORMATS
from isanet_jax.prediction.result import read_images
from isanet_jax.prediction.sources import find_scans
from isanet_jax.volume import Volume

_SESSION_S, _MOST_SESSIONS = 3600.0, 16
# Names of the models. 3D Slicer and OHIF segment with one type and click with another, "deepgrow":
# the networks have both.
_NETWORK, _CLICKED, _THRESHOLD = "isanet", "isanet_clicks", "threshold"
_LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


class Server:
    """The application, `app`, and what it holds.

    Args:
        desk: scans, masks and networks.
        hosts: names that it may be called by where there is no token; others are refused, as a
            page of elsewhere that was made to lead here would be.
        token: that every request must carry (`Authorization: Bearer ...`, or the password of
            `/auth/token`); None: none, on loopback.
        origins: of pages that may ask from a browser, as OHIF's `http://localhost:3000`; pages of
            elsewhere are refused.
        model: paths that trainings go on from; None: there is no model.
    """

    def __init__(
        self, desk: Desk, *, hosts=_LOOPBACK, token: str | None = None, origins=(), model=None
    ):
        self.desk, self.hosts, self.token, self.model = desk, tuple(hosts), token, model
        self.origins = tuple(origins)
        self.training = Training(desk.folder)
        self.sessions = {}  # ID -> (folder, when it ends)
        self._temporary = Path(tempfile.mkdtemp(prefix="isanet-label-"))
        routes = [
            Route("/", self.page),
            Route("/page/data", self.page_data),
            Route("/page/click", self.page_click, methods=["POST"]),
            Route("/page/measure", self.page_measure, methods=["POST"]),
            Route("/page/mask", self.page_mask, methods=["PUT"]),
            Route("/page/version", self.page_version),
            Route("/page/export", self.page_export),
            Route("/info/", self.info),
            Route("/auth/", self.auth),
            Route("/auth/token", self.auth_token, methods=["POST"]),
            Route("/auth/token/valid", self.auth_valid),
            Route("/activelearning/{strategy}", self.next_sample, methods=["POST"]),
            Route("/session/", self.open_session, methods=["PUT"]),
            Route("/session/{session}", self.get_session, methods=["GET"]),
            Route("/session/{session}", self.end_session, methods=["DELETE"]),
            Route("/infer/{model}", self.infer, methods=["POST"]),
            Route("/datastore/", self.datastore, methods=["GET"]),
            Route("/datastore/", self.refuse_image, methods=["PUT"]),
            Route("/datastore/image", self.get_image),
            Route("/datastore/image/info", self.image_info),
            Route("/datastore/label", self.put_label, methods=["PUT"]),
            Route("/datastore/label", self.get_label, methods=["GET"]),
            Route("/datastore/label/info", self.label_info),
            Route("/train/", self.start_training, methods=["POST"]),
            Route("/train/{model}", self.start_training, methods=["POST"]),
            Route("/train/", self.training_status, methods=["GET"]),
            Route("/train/", self.stop_training, methods=["DELETE"]),
        ]
        errors = {IsaNetError: _refused, json.JSONDecodeError: _no_json}
        inner = Starlette(routes=routes, exception_handlers=errors)
        self.app = Guard(inner, hosts=self.hosts, token=token, origins=self.origins)
        if origins:  # around the guard: a browser asks without a token whether it may ask
            self.app = CORSMiddleware(
                self.app, self.origins, allow_methods=["*"], allow_headers=["*"]
            )

    def close(self) -> None:
        """Deletes what clients uploaded for a while, and ends a training."""
        self.training.stop()
        shutil.rmtree(self._temporary, ignore_errors=True)

    # Who is it.

    async def auth(self, request):
        """Whether a token is asked for."""
        return JSONResponse({"enabled": self.token is not None})

    async def auth_token(self, request):
        """The token, for whoever knows it: as a password."""
        form = await request.form()
        if self.token is None or not hmac.compare_digest(str(form.get("password")), self.token):
            return JSONResponse({"detail": "wrong user or password"}, 401)
        return JSONResponse({"access_token": self.token, "token_type": "bearer"})

    async def auth_valid(self, request):
        """It has come as far as this."""
        return JSONResponse({"valid": True})

    # The page.

    async def page(self, request):
        """The reader's page: see `isanet_jax.annotate.page`. A token in its address is kept by the
        browser, and taken out of the address.
        """
        if token := request.query_params.get("token"):
            answer = RedirectResponse("/", 303)
            secure = request.url.scheme == "https"
            answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure)
            return answer
        return HTMLResponse(await run_in_threadpool(page.text, self.desk))

    def _case(self, request):
        return self.desk.parse(request.query_params.get("image", ""))[0]

    async def page_data(self, request):
        """A case as the page shows it."""
        return JSONResponse(await run_in_threadpool(page.data, self.desk, self._case(request)))

    async def page_click(self, request):
        """A lesion by a click."""
        case, asked = self._case(request), await _body(request)
        return JSONResponse(await run_in_threadpool(page.click, self.desk, case, asked))

    async def page_measure(self, request):
        """Lesions and summary of a mask that is being edited."""
        case, content = self._case(request), await request.body()
        return JSONResponse(await run_in_threadpool(page.measure, self.desk, case, content))

    async def page_mask(self, request):
        """A draft, or a version, comes in."""
        case, content, query = self._case(request), await request.body(), request.query_params
        return JSONResponse(await run_in_threadpool(self._keep, case, content, dict(query)))

    def _keep(self, case, content, query):
        grid, labels = self.desk.grid(case), self.desk.labels
        mask = Volume(page.back(self.desk, case, content), grid.affine, grid.header)
        base = int(query.get("base") or 0)
        if query.get("tag") != "final":
            labels.keep_draft(case, mask)
            return {"number": base, "tag": "draft", "beside": []}
        saved = labels.save(case, mask, who=query.get("who", ""), tag="final", base=base)
        labels.end_draft(case)
        newer = [_about(one) for one in labels.versions(case) if base < one.number < saved.number]
        return _about(saved) | {"beside": newer}

    async def page_version(self, request):
        """An earlier mask."""
        case, number = self._case(request), request.query_params.get("number", "")
        if not number.isdigit():
            raise DataError(f"version {number[:20]!r}", case=case, wanted="a number")
        found = await run_in_threadpool(page.version, self.desk, case, int(number))
        return JSONResponse(found)

    async def page_export(self, request):
        """The mask as a file of a format."""
        case, name = self._case(request), request.query_params.get("format", "")
        if name not in FORMATS:
            raise DataError(f"no format {name[:40]!r}", wanted=", ".join(FORMATS))

        def write(path):
            page.as_prediction(self.desk, case).save(path, format=name, overwrite=True)

        return await self._file(f"{case}{FORMATS[name].suffix}", write)

    # What there is.

    async def info(self, request):
        """What the server can do."""
        classes, desk = list(self.desk.classes.names), self.desk
        labels = {name: desk.classes.written[name] for name in classes}
        models = {
            _THRESHOLD: _model(
                "deepgrow", labels, "the PET's threshold in a sphere around each click",
                {"radius_mm": 30.0, "share": 0.41, "least_suv": 0.0},
            )
        }  # fmt: skip
        if desk.predictor:
            name = desk.predictor.maker.name
            models = {
                _NETWORK: _model("segmentation", labels, f"the model {name}", {}),
                _CLICKED: _model("deepgrow", labels, f"{name}, corrected by clicks", {}),
            } | models
        state = await run_in_threadpool(self.training.status)
        return JSONResponse(
            {
                "name": "isanet",
                "description": "PET/CT annotation with the network in the loop",
                "version": isanet_jax.__version__,
                "labels": classes,
                "models": models,
                "trainers": {_NETWORK: {"description": "train on", "config": {"epochs": EPOCHS}}},
                "strategies": {n: {"description": text} for n, text in STRATEGIES.items()},
                "scoring": {},
                "train_stats": {_NETWORK: {"status": state["status"]}},
                "datastore": self._counts(),
            }
        )

    def _counts(self):
        done = self.desk.labels.cases("final")
        return {
            "total": len(self.desk.scans),
            "completed": len(done),
            "label_tags": {"final": len(done)},
        }

    async def next_sample(self, request):
        """The next image to annotate."""
        params = await _body(request)
        strategy = request.path_params["strategy"]
        ranked = await run_in_threadpool(self.desk.ranked, strategy, seed=params.get("seed"))
        if not ranked:
            return JSONResponse({})
        case, score = ranked[0]
        shown = f"{case}.{params['image']}" if params.get("image") else case
        about = {"id": shown, "name": shown, "strategy": strategy, "score": score}
        return JSONResponse(about | self.desk.uids(shown))

    async def datastore(self, request):
        """All images and masks, or as `output` says."""
        if request.query_params.get("output") != "all":
            return JSONResponse(self._counts())
        objects = {}
        for case in self.desk.scans:
            versions = self.desk.labels.versions(case)
            labels = {one.tag: {"ext": ".nii.gz", "info": _about(one)} for one in versions}
            info = {"images": [case, *(f"{case}.{name}" for name in self.desk.kinds)]}
            objects[case] = {"image": {"ext": ".nii.gz", "info": info}, "labels": labels}
        return JSONResponse({"name": "isanet", "description": "", "objects": objects})

    async def refuse_image(self, request):
        """Images come from the source that the server was started with."""
        raise DataError(
            "this server takes no images", wanted="scans in --cases",
            action="Put it there and start the server again, or predict it in a session",
        )  # fmt: skip

    async def get_image(self, request):
        """An image as NIfTI."""
        image = request.query_params.get("image", "")
        return await self._file(f"{self._id(image)}.nii.gz", self.desk.write_image, image)

    async def image_info(self, request):
        """What is known of an image."""
        case, name = self.desk.parse(request.query_params.get("image", ""))
        versions = [_about(one) for one in self.desk.labels.versions(case)]
        return JSONResponse({"case": case, "image": name, "labels": versions})

    def _id(self, image):
        """The image's ID as it is known here: no text of a client is part of a path."""
        case, name = self.desk.parse(image)
        return case if image == case else f"{case}.{name}"

    async def _file(self, name, write, *arguments):
        """What a function writes, as an answer that deletes it."""
        from starlette.background import BackgroundTask

        folder = Path(tempfile.mkdtemp(dir=self._temporary))
        path = folder / "image.nii.gz"
        await run_in_threadpool(write, *arguments, path)
        gone = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
        return FileResponse(path, filename=name, background=gone)

    # Masks.

    async def put_label(self, request):
        """A mask comes in, and stays."""
        case, name = self.desk.parse(request.query_params.get("image", ""))
        async with self._uploads(request) as (params, files):
            if "label" not in files:
                raise DataError("no mask in the request", wanted="a file called label")
            if files["label"].suffix == ".bin":
                files["label"] = await run_in_threadpool(
                    self._of_voxels, files["label"], case, name
                )
            who = params.get("client_id") or params.get("who") or ""
            saved = await run_in_threadpool(
                self.desk.save, case, files["label"], who=who,
                tag=request.query_params.get("tag") or "final",
                base=int(params.get("base") or 0),
            )  # fmt: skip
        newer = [_about(one) for one in self.desk.labels.versions(case) if one.number > saved.base]
        others = [one for one in newer if one["number"] != saved.number]
        return JSONResponse(
            {"image": case, "label": case}
            | _about(saved)
            | {"beside": others if saved.base else []}
        )

    def _of_voxels(self, path, case, name):
        """A NIfTI file of a mask that comes as its voxels alone, as OHIF sends it."""
        shown, content = self.desk.images(case).volumes[name], path.read_bytes()
        count = shown.data.size
        kind = {count: np.uint8, 2 * count: "<u2"}.get(len(content))
        if kind is None:
            raise DataError(
                f"a mask of {len(content)} bytes", case=case,
                wanted=f"a byte, or two, for each of the {count} voxels of the image {name}",
            )  # fmt: skip
        data = np.frombuffer(content, kind).reshape(shown.data.shape, order="F")
        path = path.with_suffix(".nii.gz")
        write_volume(path, Volume(data, shown.affine, shown.header))
        return path

    async def get_label(self, request):
        """A mask goes out: the last of its tag."""
        case, _ = self.desk.parse(request.query_params.get("label", ""))
        tag = request.query_params.get("tag") or None
        version = self.desk.labels.latest(case, tag)
        if version is None:
            raise DataError("has no such mask", case=case, wanted="one that was saved")
        return FileResponse(version.path, filename=f"{case}.nii.gz")

    async def label_info(self, request):
        """What is known of a mask."""
        case, _ = self.desk.parse(request.query_params.get("label", ""))
        return JSONResponse([_about(one) for one in self.desk.labels.versions(case)])

    # The network.

    async def infer(self, request):
        """A mask by the network, or by clicks."""
        model = request.path_params["model"]
        async with self._uploads(request) as (params, files):
            session = request.query_params.get("session_id")
            if session:
                found = await run_in_threadpool(self._of_session, session)
                return self._answer(request, params, found, {"model": model})
            image = request.query_params.get("image", "")
            case, name = self.desk.parse(image)
            started = time.perf_counter()
            is_clicked = bool(params.get("foreground") or params.get("background"))
            is_network = model in (_NETWORK, _CLICKED)
            if is_network and is_clicked and self.desk.predictor is not None:
                shown = self.desk.images(case).volumes[name]
                points = [
                    apply_affine(shown.affine, _points(params, of))
                    for of in ("foreground", "background")
                ]
                of_class = self._class_of(params)
                found = await run_in_threadpool(self.desk.guided, case, *points, name=of_class)
                if model == _CLICKED:  # a client takes all of it for the class that it asked for
                    found.data[found.data != self.desk.classes.written[of_class]] = 0
            elif model == _THRESHOLD or is_clicked:
                before = None
                if "label" in files:
                    before = await run_in_threadpool(self.desk.check_mask, case, files["label"])
                found = await run_in_threadpool(
                    self._by_clicks, case, name, params, before and before.data
                )
            elif is_network:
                found = await run_in_threadpool(self.desk.infer, case)
            else:
                raise DataError(
                    f"no model {model[:100]!r}",
                    wanted=" or ".join((_NETWORK, _CLICKED, _THRESHOLD)),
                )
            found = await run_in_threadpool(self._on_grid_of, found, case, name)
        about = {
            "model": model,
            "label_names": {n: self.desk.classes.written[n] for n in self.desk.classes.names},
            "latencies": {"total": round(time.perf_counter() - started, 3)},
        }
        return self._answer(request, params, found, about)

    def _answer(self, request, params, mask, about):
        """A mask, what is said of it, or both, as the client's `output` and parameters ask."""
        output = request.query_params.get("output") or "all"
        if output not in ("all", "image", "json"):
            raise DataError(f"output {output[:40]!r}", wanted="all, image or json")
        if output == "json":
            return JSONResponse(about)
        suffix = params.get("result_extension") or ".nii.gz"
        if suffix not in (".nii.gz", ".nrrd"):
            raise DataError(f"result_extension {str(suffix)[:40]!r}", wanted=".nii.gz or .nrrd")
        content = _as_nrrd(mask) if suffix == ".nrrd" else _as_nifti(mask, self._temporary)
        if output == "image":
            return Response(content, media_type="application/octet-stream")
        return _multipart(content, about, f"{secrets.token_hex(8)}{suffix}")

    def _class_of(self, params):
        """The class that clicks are of: the client's `label`, or the only one, or the first."""
        names, asked = self.desk.classes.names, params.get("label")
        if asked in (None, "") or len(names) == 1:
            return names[0]
        if asked not in names:
            raise DataError(f"clicks of {str(asked)[:100]!r}", wanted=f"one of {', '.join(names)}")
        return asked

    def _by_clicks(self, case, name, params, before):
        """Clicks are voxels of the image that is shown."""
        shown, grid = self.desk.images(case).volumes[name], self.desk.grid(case)
        to_grid = np.linalg.inv(grid.affine) @ shown.affine

        def voxels(of):
            points = _points(params, of)
            return apply_affine(to_grid, points) if len(points) else []

        how = {"radius_mm": float(params.get("radius_mm") or 30.0)}
        if least := float(params.get("least_suv") or 0):
            how |= {"share": None, "least_suv": least}
        elif params.get("share"):
            how["share"] = float(params["share"])
        away = [np.rint(one).astype(int) for one in voxels("background")]
        how |= {"name": self._class_of(params), "before": before}
        return self.desk.threshold(case, voxels("foreground"), away, **how)

    def _on_grid_of(self, mask, case, name):
        """A mask on the grid of the image that is shown."""
        shown = self.desk.images(case).volumes[name]
        if name == next(iter(self.desk.kinds)):
            return mask
        data = resample(mask, shown.data.shape, shown.affine, order=0, fill=0)
        return Volume(data.astype(mask.data.dtype), shown.affine, shown.header)

    # Images that are no case, for a while.

    async def open_session(self, request):
        """Keeps uploaded images under a name of its own."""
        self._end_old()
        async with self._uploads(request, keep=True) as (_, files):
            if not files:
                raise DataError("no files in the request", wanted="the images of one scan")
            if len(self.sessions) >= _MOST_SESSIONS:
                raise DataError(f"{_MOST_SESSIONS} sessions are open", wanted="fewer")
            folder = next(iter(files.values())).parent
        name = secrets.token_hex(16)
        self.sessions[name] = folder, time.monotonic() + _SESSION_S
        return JSONResponse({"session_id": name, "expiry": _SESSION_S})

    def _folder_of(self, name):
        self._end_old()
        if name not in self.sessions:
            raise DataError("no such session", wanted="one that is open")
        return self.sessions[name][0]

    async def get_session(self, request):
        """Whether it is open."""
        self._folder_of(request.path_params["session"])
        return JSONResponse({"session_id": request.path_params["session"]})

    async def end_session(self, request):
        """Deletes its images."""
        shutil.rmtree(self._folder_of(request.path_params["session"]), ignore_errors=True)
        del self.sessions[request.path_params["session"]]
        return JSONResponse({})

    def _end_old(self):
        for name, (folder, end) in list(self.sessions.items()):
            if time.monotonic() > end:
                shutil.rmtree(folder, ignore_errors=True)
                del self.sessions[name]

    def _of_session(self, name):
        from isanet_jax.prediction.result import predict

        if self.desk.predictor is None:
            raise DataError("there is no model yet")
        folder = self._folder_of(name)
        (scan,) = find_scans([folder], self.desk.kinds).scans or [None]
        if scan is None:
            raise DataError("the session lacks an image", wanted=", ".join(self.desk.kinds))
        images = read_images(scan, self.desk.kinds)
        (found,) = predict(self.desk.predictor, [images])
        if isinstance(found, Exception):
            raise found
        return Volume(found.labels, found.affine)

    # Training.

    async def start_training(self, request):
        """Begins to train on."""
        params = await _body(request)
        of_model = params.get(_NETWORK, params)
        epochs = of_model.get("epochs", EPOCHS) if isinstance(of_model, dict) else EPOCHS
        start = self.training.start
        return JSONResponse(
            await run_in_threadpool(start, self.desk, model=self.model, epochs=int(epochs))
        )

    async def training_status(self, request):
        """How far it is; with `check_if_running`, an error where it is not."""
        state = await run_in_threadpool(self.training.status)
        if request.query_params.get("check_if_running") and state["status"] != "RUNNING":
            return JSONResponse(state, 404)
        if state["status"] == "DONE":
            await run_in_threadpool(self._take_model)
        return JSONResponse(state)

    async def stop_training(self, request):
        """Asks it to save and end."""
        return JSONResponse(await run_in_threadpool(self.training.stop))

    def _take_model(self):
        """What was learnt is the model from here on."""
        from isanet_jax.prediction.predictor import Predictor

        if not self.training.is_taken:  # each training leaves it at the same place
            self.model = [self.training.model]
            self.desk.predictor = Predictor(self.model)
            self.training.is_taken = True
            self.desk.prepare_for_clicks()

    # Uploads.

    @contextlib.asynccontextmanager
    async def _uploads(self, request: Request, *, keep=False):
        """(params, name -> path) of a request's form, under names of our own, for a while."""
        form = await request.form()
        folder, files = Path(tempfile.mkdtemp(dir=self._temporary)), {}
        params = _json(form.get("params")) if isinstance(form.get("params"), str) else {}
        try:
            for number, (name, value) in enumerate(form.multi_items()):
                if not isinstance(value, UploadFile):
                    continue
                path = folder / _safe(value.filename, number)
                with open(path, "wb") as file:
                    await run_in_threadpool(shutil.copyfileobj, value.file, file)
                files[name if name not in files else f"{name}{number}"] = path
            yield params, files
        finally:
            await form.close()
            if not (keep and files):
                shutil.rmtree(folder, ignore_errors=True)


def _safe(name, number):
    """A file's name without its folders and odd signs: `CT` and `PET` in it say what it is."""
    last = str(name or "").replace("\\", "/").rpartition("/")[2]
    clean = "".join(c if c.isalnum() or c in "._-" else "_" for c in last).lstrip(".")[-100:]
    return clean or f"{number}.nii.gz"


def _points(params, of):
    """(n, 3) voxels of a client's clicks."""
    return np.asarray(params.get(of) or [], float).reshape(-1, 3)


def _model(kind, labels, text, config):
    return {
        "type": kind, "labels": labels, "dimension": 3, "description": text, "config": config,
    }  # fmt: skip


def _about(version):
    """A version as clients see it."""
    return {n: v for n, v in version._asdict().items() if n != "path"}


def _json(text):
    content = json.loads(text or "{}")
    return content if isinstance(content, dict) else {}


async def _body(request):
    return _json((await request.body()).decode("utf-8", "replace"))


def _as_nifti(mask, folder):
    """A mask as the bytes of a file."""
    path = Path(folder) / f"{secrets.token_hex(8)}.nii.gz"
    write_volume(path, as_small(mask), overwrite=True)
    content = path.read_bytes()
    path.unlink()
    return content


def _as_nrrd(mask):
    """A mask as the bytes of a NRRD file, not compressed: https://teem.sourceforge.net/nrrd."""
    data = mask.data.astype(np.uint8 if mask.data.max(initial=0) < 256 else "<u2")
    to_lps = np.diag([-1.0, -1.0, 1.0]) @ mask.affine[:3]
    *axes, origin = (f"({','.join(f'{n:.9g}' for n in column)})" for column in to_lps.T)
    head = (
        f"NRRD0004\ntype: uint{8 * data.itemsize}\ndimension: 3\n"
        f"space: left-posterior-superior\nsizes: {' '.join(map(str, data.shape))}\n"
        f"space directions: {' '.join(axes)}\nkinds: domain domain domain\nendian: little\n"
        f"encoding: raw\nspace origin: {origin}\n\n"
    )
    return head.encode() + data.tobytes(order="F")


def _multipart(content, params, name):
    """Params and a file of a mask, as clients read them."""
    boundary = secrets.token_hex(16)
    head = "Content-Disposition: form-data; name="
    body = (
        f'--{boundary}\r\n{head}"params"\r\n\r\n{json.dumps(params)}\r\n--{boundary}\r\n'
        f'{head}"image"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode() + content + f"\r\n--{boundary}--\r\n".encode()  # fmt: skip
    return Response(body, media_type=f"multipart/form-data; boundary={boundary}")


async def _refused(request, error):
    """An error that a user can act on, in a line."""
    return JSONResponse({"detail": str(error)}, 400)


async def _no_json(request, error):
    return JSONResponse({"detail": f"the request is no JSON ({error})"}, 400)
