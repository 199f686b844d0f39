"""A folder of trained networks for programs that are not this one.

`model.json` says how a scan becomes the networks' input and their output a mask; each network is an
ONNX file, with the images' normalisation inside; `isanet_onnx.py` does all of it. Beside them, the
same functions as StableHLO, which `jax.export.deserialize` reads.
"""

import dataclasses
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax import export as jax_export

import isanet_jax
from isanet_jax.errors import ConfigError
from isanet_jax.export import FORMATS
from isanet_jax.files import check_folder
from isanet_jax.network import guidance, systems
from isanet_jax.pipeline.normalise import normalise
from isanet_jax.prediction.predictor import Predictor, ct_windows_of
from isanet_jax.prediction.rules import write_form
from isanet_jax.settings import read_stored

PLATFORMS = ("cpu", "cuda")  # that the StableHLO is for
LARGEST_DIFFERENCE = 1e-4  # of a probability, between ONNX and JAX
_RUNNER = Path(__file__).with_name("isanet_onnx.py")
_OUTPUT = "probability"


def write_model(
    predictor: Predictor, output, *, formats=FORMATS, check=True, overwrite=False
) -> list[dict]:
    """Writes the networks of a predictor into a folder, whole or not at all.

    They compute in float32, whatever they were trained in.

    Args:
        predictor: of a run, of several, or of a model in one file.
        output: folder.
        formats: some of `isanet_jax.export.FORMATS`.
        check: compare each ONNX network with JAX.
        overwrite: replace a folder that holds such a model.

    Returns:
        For each network what was written: `file`, `bytes`, `nodes`, `opset`, and `difference`: the
        largest of a probability to JAX's own, on noise (None: not compared).

    Raises:
        ConfigError: no onnx or onnxruntime, a network that cannot be exported or whose export
            differs, or a folder that is there.
    """
    output = check_folder(output)
    if "onnx" in formats:
        _check_packages(check)
    if output.exists() and any(output.iterdir()):
        if not (output / "model.json").is_file():
            raise ConfigError(f"{output} holds something else; name another folder")
        if not overwrite:
            raise ConfigError(f"{output} holds a model already; add --overwrite, or name another")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        written, about = [], []
        for number, (description, params) in enumerate(predictor.networks):
            network = probability_of(description, params)
            path = Path(folder) / f"network{number}"
            config = read_stored(description["config"])
            made, entry = _write_network(network, config, path, formats, check=check)
            written.append(made)
            about.append(entry)
        settings = predictor.settings.to_json()
        content = {
            "format": 1,
            "program": f"isanet_jax {isanet_jax.__version__}",
            "settings": {
                name: settings[name] for name in ("size", "fit", "spacing_mm", "images", "region")
            },
            "values": predictor.labels.written,
            "rules": write_form(predictor.rules),
            "networks": about,
            "click_lift": guidance.LIFTS,
        }
        text = json.dumps(content, indent=1)
        (Path(folder) / "model.json").write_text(text, encoding="utf-8")
        if "onnx" in formats:
            shutil.copyfile(_RUNNER, Path(folder) / _RUNNER.name)
        output.mkdir(exist_ok=True)
        olds = [path for name in FORMATS for path in output.glob(f"network[0-9]*.{name}")]
        for old in (*olds, output / "model.json", output / _RUNNER.name):
            old.unlink(missing_ok=True)
        for path in sorted(Path(folder).iterdir(), key=lambda path: path.name == "model.json"):
            path.replace(output / path.name)
    return written


def probability_of(description: dict, params: dict) -> tuple[Callable, dict]:
    """A network as a function of images alone: name -> (1, D, H, W), to (1, D, H, W, classes).

    A network that takes clicks takes their maps with the images (`guidance.names`).

    Args:
        description: of its run.
        params: its parameters.

    Returns:
        The function, and name -> shape of its images.
    """
    config = read_stored(description["config"])
    # As XLA has them, convolutions are what ONNX has, too; one device, everything in float32.
    model = systems.of_config(config, is_split=False)
    model = dataclasses.replace(model, dtype="float32", convolution="native", remat="none")
    graphdef, _ = systems.create_abstract(model)
    params = jax.tree.map(np.asarray, jax.device_get(params))
    kinds, windows = config.data.kinds, ct_windows_of(description)
    of_volume = config.data.pet_is_of_volume

    def probability(images):
        image = normalise(images, kinds, of_volume=of_volume, ct_windows=windows)
        image = guidance.with_maps(image, images, config.data.guided_classes)
        return jax.nn.sigmoid(systems.apply(graphdef, params, image).logits)

    names = [*kinds, *guidance.names(config.data.guided_classes)]
    return probability, dict.fromkeys(names, (1, *config.data.input_shape))


def _write_network(network, config, path, formats, *, check):
    """Writes one; returns what is said of it to the user, and its entry in model.json."""
    probability, shapes = network
    data = config.data
    entry = {
        "shape": list(data.input_shape),
        "images": data.kinds,
        "scales_pet": data.pet_is_of_volume,
        "pet_scale": data.pet_scale,
        "skips_air": data.is_whole,
        "mirror": config.predict.mirror,
        "click_maps": list(guidance.names(data.guided_classes)),
        "click_sigma": guidance.SIGMA,
    }
    made = {"difference": None}
    if "stablehlo" in formats:
        given = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
        exported = jax_export.export(jax.jit(probability), platforms=PLATFORMS)(given)
        content = bytes(exported.serialize())
        made |= {"file": f"{path.name}.stablehlo", "bytes": len(content)}
        (path.parent / made["file"]).write_bytes(content)
    if "onnx" in formats:
        from isanet_jax.export.onnx_graph import OPSET, to_onnx

        model = to_onnx(probability, shapes, _OUTPUT)
        content = model.SerializeToString()
        made |= {"file": f"{path.name}.onnx", "bytes": len(content), "opset": OPSET}
        made["nodes"] = len(model.graph.node)
        (path.parent / made["file"]).write_bytes(content)
        if check:
            made["difference"] = difference(probability, shapes, content)
            if not made["difference"] <= LARGEST_DIFFERENCE:
                raise ConfigError(
                    f"as ONNX, {path.name} ({config.model.name}) has probabilities that "
                    f"differ by {made['difference']:.1e} from JAX's; {LARGEST_DIFFERENCE:g} is the "
                    "most that is let through"
                )
        entry["sha256"] = hashlib.sha256(content).hexdigest()
    return made, {"file": made["file"], **entry}


def difference(probability: Callable, shapes: dict, content: bytes) -> float:
    """The largest difference of a probability between an ONNX network and the JAX function.

    On noise in the images' units: HU around 0, SUV around 1.
    """
    import onnxruntime

    rng = np.random.default_rng(0)
    images = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    images = {name: x * 500 if name == "ct" else x for name, x in images.items()}
    images = {
        name: np.clip(x, 0, 1) if name.startswith(guidance.PREFIX) else x
        for name, x in images.items()
    }
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(None, images)[0]
    wanted = np.asarray(jax.jit(probability)(images))
    return float(np.abs(found - wanted).max()) if found.shape == wanted.shape else math.inf


def _check_packages(check):
    names = ["onnx", "onnxruntime"] if check else ["onnx"]
    for name in names:
        try:
            __import__(name)
        except ImportError as error:
            raise ConfigError(
                f"--format onnx needs the package {name}: pip install 'isanet_jax[export]', or "
                f"pip install {' '.join(names)}"
            ) from error
