"""What `benchmarks.nnunet` has nnU-Net do; runs in nnU-Net's environment, without this package.

    python nnunet_worker.py prepare 900 --spacing-mm 4
    python nnunet_worker.py train 900 --fold 0 --minutes 20 --device cpu --output DIR

nnU-Net's own code throughout: planner, preprocessing, network, loss, augmentation, optimiser,
prediction with mirror images. Two things are ours: the training ends when the time is spent, the
processor's or, on a GPU, the clock's; and the learning rate falls by (1 - spent share)^0.9 where
nnU-Net counts epochs.
"""

import argparse
import json
import os
import time
from pathlib import Path

PLANS, CONFIGURATION = "nnUNetPlans", "3d_fullres"
_STEPS_BETWEEN = 10  # in which the learning rate stays
_STARTED = time.perf_counter()


def prepare(dataset: int, spacing_mm: float, planner: str) -> None:
    """Fingerprint, plan and preprocessing; spacing_mm 0: the planner's own target."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    api.extract_fingerprints([dataset], num_processes=2, check_dataset_integrity=True)
    target = (spacing_mm,) * 3 if spacing_mm else None
    name = api.plan_experiments([dataset], planner, overwrite_target_spacing=target)
    api.preprocess([dataset], name, (CONFIGURATION,), num_processes=(2,))


def train(
    dataset: int, fold: int, minutes: float, output: Path, *, plans: str, device: str = "cpu"
) -> None:
    """Trains on a fold's training cases, and predicts its test cases into OUTPUT/CASE.nii.gz."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    name = maybe_convert_to_dataset_name(dataset)
    folder = Path(str(nnUNet_preprocessed)) / name
    plan = json.loads((folder / f"{plans}.json").read_text()) | {"continue_training": False}
    description = json.loads((folder / "dataset.json").read_text())
    on_gpu, device = device == "cuda", torch.device(device)
    if not on_gpu:
        # Augmentation in this process, so that its time counts with the network's.
        os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 - nnU-Net's name
    trainer = nnUNetTrainer(plan, CONFIGURATION, fold, description, device=device)
    trainer.on_train_start()
    budget, steps, losses = minutes * 60, 0, []

    def seconds():
        return time.perf_counter() - _STARTED if on_gpu else time.process_time()

    # Kept as soon as it is trained: where the prediction fails, no training is lost.
    kept, known = output / "network.pt", output / "trained.json"
    if known.exists():
        trainer.network.load_state_dict(torch.load(kept, weights_only=True))
        budget = 0
    while (spent := seconds()) < budget:
        if steps % _STEPS_BETWEEN == 0:
            rate = trainer.initial_lr * (1 - spent / budget) ** 0.9
            for group in trainer.optimizer.param_groups:
                group["lr"] = rate
            if steps % 50 == 0:
                print(f"step {steps}, {spent / 60:.1f} minutes, {losses[-1:]}", flush=True)
        trainer.network.train()
        losses.append(float(trainer.train_step(next(trainer.dataloader_train))["loss"]))
        steps += 1
    if not known.exists():
        output.mkdir(parents=True, exist_ok=True)
        torch.save(trainer.network.state_dict(), kept)
        key = "gpu_minutes" if on_gpu else "cpu_minutes"
        record = {key: seconds() / 60, "steps": steps, "losses": losses}
        known.write_text(json.dumps(record))

    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        if hasattr(loader, "_finish"):  # of several processes, which would outlive this one
            loader._finish()
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(
        use_mirroring=True, perform_everything_on_device=on_gpu, device=device, allow_tqdm=False
    )
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    splits = json.loads((folder / "splits_final.json").read_text())
    images = Path(str(nnUNet_raw)) / name / "imagesTr"
    channels = range(len(description["channel_names"]))
    for case in splits[fold]["test"]:
        files = [str(images / f"{case}_{c:04d}.nii.gz") for c in channels]
        predictor.predict_from_files_sequential([files], [str(output / case)])
    known.rename(output / "training.json")
    kept.unlink()


def main():
    """Does what the first argument says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("prepare", "train"))
    parser.add_argument("dataset", type=int)
    parser.add_argument("--spacing-mm", type=float, default=0.0)
    parser.add_argument("--planner", default="ExperimentPlanner")
    parser.add_argument("--plans", default=PLANS)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.what == "prepare":
        prepare(args.dataset, args.spacing_mm, args.planner)
    else:
        options = {"plans": args.plans, "device": args.device}
        train(args.dataset, args.fold, args.minutes, args.output, **options)


if __name__ == "__main__":
    main()
