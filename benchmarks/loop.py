"""Patients labelled one after another, by chance or the one that the network is least sure of.

    python -m benchmarks.loop --cases cases/sts32 --test cases/cut32 --workdir loop

Of the cohort 28 patients are to be labelled, the rest is tested on. After 4, 8, 16 and 28 labels a
network that takes clicks is trained anew, each for as many steps. The table has its DSC on the rest
without a click, and the clicks that a simulated reader (benchmarks/clicks.py) needs until DSC 0.85,
beside a reader without a network (spheres at 41 % of SUVmax). The first four are the same for both.
"""

import argparse
import json
import os
import random
from pathlib import Path

import numpy as np

from benchmarks import clicks as reader
from isanet_jax.cases.cohort import read_cohort
from isanet_jax.metrics.segmentation import case_metrics
from isanet_jax.runtime import setup

LABELS = (4, 8, 16, 28)
GOOD, MOST = 0.85, 10  # a DSC that is good enough, and the clicks after which the reader stops


def subset(source, names, target):
    """A folder of some of a folder's cases, as links, in two folds that nobody reads."""
    target.mkdir(parents=True)
    for name in names:
        os.link(source / f"{name}.zarr.zip", target / f"{name}.zarr.zip")
    manifest = json.loads((source / "manifest.json").read_text())
    manifest["cases"] = [entry for entry in manifest["cases"] if entry["case"] in names]
    (target / "manifest.json").write_text(json.dumps(manifest))
    folds = {"folds": 2, "seed": 0, "fold_of": {name: i % 2 for i, name in enumerate(names)}}
    (target / "folds.json").write_text(json.dumps(folds))
    return target


def trained(args, names, seed, workdir):
    """A predictor of a network that was trained on these cases."""
    import isanet_jax as isa
    from isanet_jax.prediction.predictor import Predictor

    if not (workdir / "done").exists():
        config = isa.get_config("sarcoma")
        config.data.cases = str(subset(args.cases, names, workdir / "cases"))
        config.data.guidance, config.seed = "clicks", seed
        config.train.epochs, config.train.steps_per_epoch = args.epochs, 14
        isa.train(config, workdir / "run")
        (workdir / "done").touch()
    return Predictor([workdir / "run"], checkpoint="latest")


def uncertainty(predictor, case):
    """Entropy over the volume, ml x bit, as `isanet next` ranks."""
    from isanet_jax.prediction.predictor import entropy

    voxel_ml = abs(np.linalg.det(np.array(case.meta["affine"])[:3, :3])) / 1000
    return float(entropy(predictor.probabilities([case])[0][..., 0]).sum() * voxel_ml)


def until_good(answer, reference, spacing):
    """DSC without a click, and the clicks until it is good (MOST where it never is)."""
    given, first = [], None
    for count in range(MOST + 1):
        mask = answer(given)
        dsc = case_metrics(mask, reference, spacing)["dsc"]
        first = dsc if first is None else first
        click = reader.next_click(mask, reference, spacing)
        if dsc >= GOOD or click is None:
            return first, count
        given = [*given, click]
    return first, MOST


def tested(predictor, cohort, names):
    """{case: (DSC, clicks)}; without a predictor, of spheres alone."""
    scores = {}
    for name in names:
        case = cohort.stored(name).read()
        affine = np.array(case.meta["affine"])
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        reference = case.masks(["tumour"])["tumour"]
        if predictor is None:
            pet = case.images["pet"].astype(np.float32)
            nothing = np.zeros(pet.shape, bool)

            def answer(given, nothing=nothing, pet=pet, affine=affine):
                return reader.by_spheres(nothing, given, pet, affine)
        else:
            answer = reader.network(predictor, case, affine)
        scores[name] = until_good(answer, reference, spacing)
    return scores


def main():
    """Trains what is not there yet, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=Path, required=True, help="to learn from")
    parser.add_argument("--test", type=Path, help="the same patients, to test on")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=35, help="of 14 steps of 2 patients")
    args = parser.parse_args()
    setup()
    learn, test = read_cohort(args.cases), read_cohort(args.test or args.cases)
    found = []  # (strategy, labels, seed, DSC, clicks, share of cases that became good)

    def note(strategy, labels, seed, scores):
        dsc, clicks = np.array(list(scores.values())).T
        found.append((strategy, labels, seed, float(dsc.mean()), float(clicks.mean())))
        print(*found[-1], flush=True)

    for seed in range(args.seeds):
        names = sorted(learn.cases)
        random.Random(seed).shuffle(names)  # noqa: S311 - of an order
        pool, rest = names[: LABELS[-1]], sorted(names[LABELS[-1] :])
        note("spheres alone", 0, seed, tested(None, test, rest))
        for strategy in ("random", "uncertain"):
            labelled = pool[: LABELS[0]]
            for labels in LABELS:
                if strategy == "random":
                    labelled = pool[:labels]
                same = labels in (LABELS[0], LABELS[-1])  # for both strategies
                workdir = args.workdir / f"{seed}-{'both' if same else strategy}-{labels}"
                predictor = trained(args, labelled, seed, workdir)
                note(strategy, labels, seed, tested(predictor, test, rest))
                if strategy == "uncertain" and labels < LABELS[-1]:
                    left = [name for name in pool if name not in labelled]
                    left.sort(key=lambda n: -uncertainty(predictor, learn.stored(n).read()))
                    # As many as the next step has: a reader who labels a batch between trainings.
                    more = LABELS[LABELS.index(labels) + 1] - labels
                    labelled = labelled + left[:more]
    heads = " | ".join(f"{count} labels" for count in LABELS)
    print(f"\n| DSC on the rest (clicks until {GOOD}) | {heads} |\n|---{'|---' * len(LABELS)}|")
    for strategy in ("random", "uncertain"):
        cells = []
        for labels in LABELS:
            of = np.array([one[3:] for one in found if one[:2] == (strategy, labels)])
            mean, spread = of.mean(0), of[:, 0].std(ddof=1) if len(of) > 1 else 0
            cells.append(f"{mean[0]:.3f} ± {spread:.3f} ({mean[1]:.1f})")
        print(f"| {strategy} | {' | '.join(cells)} |")
    alone = np.array([one[3:] for one in found if one[0] == "spheres alone"]).mean(0)
    print(f"\nwithout a network, spheres alone: {alone[1]:.1f} clicks of at most {MOST}")


if __name__ == "__main__":
    main()
