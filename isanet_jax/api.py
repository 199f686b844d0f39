"""The Python interface: what `import isanet_jax` offers, and the programs are made of.

The functions import JAX when they are called, not before: call `isanet_jax.runtime.setup()` first
in a notebook, for what the programs set before that.
"""

import importlib.util
import logging
from pathlib import Path

import numpy as np

from isanet_jax.datasets.layout import PET_CT, Options, Scan, box_from_lps
from isanet_jax.errors import ConfigError

_log = logging.getLogger(__name__)


def get_config(name: str = "hecktor"):
    """A config of this package, as a ConfigDict with every setting and its default.

    Args:
        name: as in `--config NAME`: `hecktor`, `sts`, `phantom`, `own/xie2021`,
            `compare/table2:sts,smoke`; or the path of a config file.

    Raises:
        ConfigError: no such config.

    Examples:
        >>> isa.get_config("hecktor").train.epochs
        300
    """
    from isanet_jax.settings.command_line import packaged_config

    path, _, variant = packaged_config(name).partition(":")
    if not Path(path).is_file():
        raise ConfigError(f"there is no config {name!r}; name one of this package, or a file")
    spec = importlib.util.spec_from_file_location("isanet_jax_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant) if variant else module.get_config()


def prepare(
    scans,
    output,
    *,
    layout=None,
    fit=None,
    images=None,
    label_values=None,
    target=None,
    classes=None,
    ignore=(),
    codes=None,
    options=None,
    workers=1,
    folds=5,
    seed=0,
    skip_bad=False,
    refold=False,
    copies=False,
    part=None,
    cluster=None,
    **settings,
) -> list[dict]:
    """Prepares scans for training, as `isanet prepare` does.

    Args:
        scans: a source in a layout that is known (a folder, or a CSV), or a list of `Scan`.
        output: folder of the prepared cases.
        layout: of the source, as in `isanet prepare LAYOUT`; None: it is recognised.
        fit: `resize` keeps the field of view, `crop` and `whole` the voxel size; None: the
            layout's own.
        images: name -> kind, as `isanet_jax.kinds.parse_images` gives; None: CT and PET.
        label_values, target, classes, ignore, codes: what the labels' values stand for, see
            `isanet_jax.datasets.classes_of`.
        options: of DICOM, an `isanet_jax.datasets.layout.Options`.
        workers: processes. With several, a script calls this under `if __name__ == "__main__":`,
            as each of them begins by importing the script.
        folds, seed: number of folds, and what they are drawn from.
        skip_bad: leave out cases that fail, and list them in the manifest.
        refold: deal all patients into folds anew; else those who are in `output` keep theirs.
        copies: also write each DICOM study as NIfTI, into `output`/nifti.
        part: one of several parts of the scans, see `isanet_jax.parallel.part_of`, each for a
            process of its own; the one that makes the last case writes the manifest.
        cluster: address of a Dask scheduler whose workers make the cases; None: processes here.
        settings: further ones of `isanet_jax.cases.preparation.Settings`: size, spacing_mm (`auto`:
            see `isanet_jax.cases.spacing`), ...

    Returns:
        the manifest's entries, one per case; [] of a part after which cases are lacking still.

    Raises:
        ConfigError: settings that cannot be, or an output folder that is in use.
        DataError: a source that cannot be read, or cases that failed, with every reason.

    Examples:
        >>> grid = {"size": 16, "fit": "crop", "spacing_mm": 12.0}
        >>> made = isa.prepare("scans/cases.csv", "cases", folds=2, **grid)
        scans/cases.csv: table
        >>> [entry["case"] for entry in made]
        ['phantom_000', 'phantom_001', 'phantom_002', 'phantom_003']
    """
    from isanet_jax import datasets
    from isanet_jax.cases import prepare_cohort
    from isanet_jax.cases.preparation import Settings
    from isanet_jax.cases.spacing import auto_spacing
    from isanet_jax.locks import only_here

    output = Path(output)
    lock = "prepare" if part is None else f"prepare-{part.replace('/', '-of-')}"
    with only_here(output, lock, "makes cases there"):
        images = dict(images or PET_CT)
        options = options or Options()
        classes = classes or options.classes or None
        options = options._replace(images=images, classes=classes or {})
        if isinstance(scans, (str, Path)):
            layout, found = datasets.read(scans, layout, options)
            source, dataset = Path(scans), datasets.DATASETS[layout]
        else:
            layout, found = layout or "scans", datasets.Found(list(scans))
            source, dataset = None, datasets.Dataset(layout, "", None, None)
        if not skip_bad:
            datasets.check_files(found.scans)  # before hours are spent on the others
        of_labels = datasets.classes_of(
            dataset,
            source,
            found.scans,
            values=label_values,
            target=target,
            classes=classes,
            ignore=ignore,
            codes=codes,
        )
        if settings.get("spacing_mm") == "auto":
            settings["spacing_mm"] = auto_spacing(found.scans, next(iter(images)))
            shown = " x ".join(f"{mm:g}" for mm in settings["spacing_mm"])
            _log.info(f"voxels of {shown} mm (right-left x front-back x feet-head)")
        grid = {"fit": fit or dataset.fit, "region": dataset.region(found.scans)}
        return prepare_cohort.prepare(
            found.scans,
            Settings(images=images, classes=of_labels, **grid | settings),
            output,
            kind=layout,
            folds=folds,
            seed=seed,
            workers=workers,
            skip_bad=skip_bad,
            refold=refold,
            failures=dict(found.failures),
            copies=output / "nifti" if copies else None,
            part=part,
            cluster=cluster,
        )


def build(name: str = "isa", *, size, seed: int = 0, **settings):
    """A system as an ordinary Flax module: (B, D, H, W, images), normalised -> `Output`.

    Args:
        name: of the system; `isanet_jax.network.systems.SYSTEMS` has them.
        size: voxels per axis of its input, one number or three (D, H, W).
        seed: that its parameters are drawn from.
        settings: of `isanet_jax.network.config.ModelConfig`: width, levels, modalities, ...

    Raises:
        ConfigError: no such system, or a setting that it does not have or cannot take.

    Examples:
        >>> model = isa.build("isa", size=16, width=2, levels=2)
        >>> model(np.zeros((1, 16, 16, 16, 2), np.float32)).logits.shape
        (1, 16, 16, 16, 1)
    """
    import jax
    from flax import nnx

    from isanet_jax.network import systems

    config = systems.resolve(size, {"name": name, **settings})
    return nnx.merge(*systems.create(config, jax.random.key(seed)))


def train(config, workdir) -> bool:
    """Trains until the last epoch, or resumes where an earlier call was stopped.

    Args:
        config: a ConfigDict (see `get_config`) or the dict of one; it is not changed.
        workdir: folder of the run.

    Returns:
        whether the last epoch is reached; False where a signal stopped it, which saves first.

    Raises:
        ConfigError, DataError, CheckpointError: see `isanet_jax.training.loop.train`.

    Examples:
        >>> config = isa.get_config("phantom")
        >>> config.data.cases, config.data.size, config.data.spacing_mm = "cases", 16, 12.0
        >>> config.model.width, config.model.levels, config.train.epochs = 2, 2, 1
        >>> config.selection = "paper"
        >>> isa.train(config, "runs/x")
        10,519 parameters, 2 cases to train on, 2 to validate ...
        True
    """
    from isanet_jax.training.loop import train as run

    return run(config, Path(workdir))


def evaluate(workdirs, output=None, *, cases=None, checkpoint="best") -> dict:
    """Scores a run on its test fold, or several as an ensemble, and writes a report.

    Args:
        workdirs: a run's folder, or several.
        output: folder of the results; None, of one run: WORKDIR/eval.
        cases: folder of another cohort of prepared cases; None: the run's own.
        checkpoint: the `best` one of each run, or the `latest`.

    Returns:
        the content of metrics.json: `cases` (ID -> metrics), `summary` (metric -> mean, sd, ...).

    Raises:
        CheckpointError, ConfigError, DataError: no such run, or cases that do not fit it.

    Examples:
        >>> scores = isa.evaluate("runs/x")
        | method | cases | DSC ...
        >>> sorted(scores["summary"]["dsc"])
        ['mean', 'median', 'n', 'n_finite', 'n_infinite', 'sd']
    """
    from isanet_jax.evaluation.runs import evaluate_runs

    one = isinstance(workdirs, (str, Path))
    folders = [Path(workdirs)] if one else [Path(w) for w in workdirs]
    if output is None and len(folders) > 1:
        raise ConfigError("give output: the results of an ensemble belong to none of its runs")
    output = Path(output) if output is not None else folders[0] / "eval"
    return evaluate_runs(folders, output, cases=cases, checkpoint=checkpoint)


def load(workdirs, *, checkpoint="best", half=False, rules=None) -> "Model":
    """Loads a trained run, or several as an ensemble, ready to predict.

    Args:
        workdirs: a run's folder, or several; a model's file, or the name of one in the package.
        checkpoint: the `best` one of each run, or the `latest`.
        half: compute in bfloat16: half the memory; probabilities differ by about a hundredth.
        rules: file of `isanet tune`, by which probabilities become masks; None: one half.

    Raises:
        CheckpointError: no run, or a checkpoint that is missing or damaged.
        ConfigError: runs on cases that were prepared differently.

    Examples:
        >>> model = isa.load("runs/x")
        >>> model.config["model"]["name"]
        'isa'
    """
    from isanet_jax.prediction.predictor import Predictor

    return Model(Predictor(workdirs, half=half, checkpoint=checkpoint, rules=rules))


class Model:
    """The network of a run, or an ensemble of several; see `load`.

    Attributes:
        predictor: the networks.
        config: the settings of the (first) run.
    """

    def __init__(self, predictor):
        self.predictor = predictor
        self.config = predictor.descriptions[0]["config"]

    def predict(self, *images, box=None, case="scan", batch=1, clicks=None, **named):
        """The tumour in a scan, on the first image's own grid (the CT's).

        Args:
            images: those that the run was trained on, in its order (CT in HU, PET in SUV), each on
                any grid: path of a NIfTI file, DICOM folder or zip; a nibabel image; or (array,
                affine), the affine to RAS+ mm.
            named: further ones by their names, as in `mr_t1="t1.nii.gz"`.
            box: (x1, x2, y1, y2, z1, z2), LPS mm as in HECKTOR: the region of interest; or None.
            case: a name for messages.
            batch: windows computed together on each device, where a scan is larger than the
                network.
            clicks: class -> (points where it is, points where it is not), LPS mm as the report
                shows them.

        Returns:
            `isanet_jax.prediction.result.Prediction`.

        Raises:
            ConfigError: images that the run has not, or lacks; a box that is empty, or not six
                numbers.
            DataError: images that cannot be read, are not HU and SUV, or do not overlap.

        Examples:
            >>> found = model.predict("scans/phantom_000/ct.nii.gz", "scans/phantom_000/pet.nii.gz")
            >>> found.mask.shape, found.probability.dtype, found.warnings[:1]
            ((80, 80, 60), dtype('float32'), ())
        """
        from isanet_jax.prediction import result

        box_mm = None if box is None else box_from_lps(box)
        kinds = self.predictor.settings.images
        given = dict(zip(kinds, images, strict=False)) | named
        if len(images) + len(named) != len(kinds) or given.keys() != kinds.keys():
            raise ConfigError(
                f"{len(images)} images and {', '.join(named) or 'none'} by name are given; this "
                f"run takes {', '.join(kinds)}"
            )
        paths = {n: Path(x if isinstance(x, (str, Path)) else n) for n, x in given.items()}
        scan = Scan(case, {name: paths[name] for name in kinds}, None, case, box_mm=box_mm)
        volumes = {
            name: _volume(image, name, case)
            for name, image in given.items()
            if not isinstance(image, (str, Path))
        }
        read = result.read_images(scan, kinds, given=volumes)
        to_ras = np.array([-1.0, -1.0, 1.0])
        given = clicks and [
            {n: tuple(np.reshape(p, (-1, 3)) * to_ras for p in of) for n, of in clicks.items()}
        ]
        (found,) = result.predict(self.predictor, [read], batch=batch, clicks=given)
        if isinstance(found, Exception):
            raise found
        return found


def _volume(image, name, case):
    """A nibabel image, or (array, affine), checked as a file would be."""
    import tempfile

    import nibabel

    from isanet_jax.nifti import read_volume, write_volume
    from isanet_jax.volume import Volume

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.nii"
        if isinstance(image, tuple):
            data, affine = image
            write_volume(path, Volume(np.asarray(data, np.float32), np.asarray(affine, float)))
        else:
            nibabel.save(image, path)
        return read_volume(path, case=case)
