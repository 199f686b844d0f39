"""ISA-Net on HECKTOR, as in the paper (Huang et al. 2022): 1 mm, 144^3, cropped by the boxes.

The paper reports a mean DSC of 0.8076 over five folds (Table 2). Not reproduced yet: the data is
gated, and a run takes a GPU. Prepare the data, then train one of the five folds:

    python prepare.py hecktor --source DIR --output cases/hecktor
    python train.py --config configs/hecktor.py --workdir runs/h0 --config.fold=0
    python eval.py --workdir runs/h0
"""

from ml_collections import ConfigDict, FieldReference


def _any(default):
    """A setting of several types: one number or three, a fold's number or its name."""
    return FieldReference(default, field_type=object)


def get_config() -> ConfigDict:
    """Every setting with its default; override with --config.name=value."""
    config = ConfigDict()
    config.seed = 0  # of parameters, shuffle and augmentation
    # Test fold; or all: every case is trained on, and the last checkpoint is kept.
    config.fold = _any(0)
    config.fold_by = "fold"  # the cases' own folds; centre: fold k leaves out the k-th centre
    # paper: the checkpoint is chosen on the fold that is reported (optimistic).
    # nested: it is chosen on the next fold, which is then not trained on.
    # none: all other folds are trained on, and the last checkpoint is kept (nnU-Net).
    config.selection = "paper"
    config.inner_fold = 0  # of nested: how many folds after the next one instead
    # Model (isanet bundle) or run whose parameters a new training starts from; "": drawn.
    config.init = ""

    # On GPUs. Channels last is what cuDNN's tensor-core kernels compute in; False: as XLA chooses.
    config.channels_last = True
    config.deterministic = False  # True: the same numbers in every run, for an unknown part of time

    config.data = ConfigDict()
    config.data.cases = "cases/hecktor"  # folder made by prepare.py
    config.data.images = ("ct", "pet")  # of a case, by name; uptake:pet names the kind, too
    config.data.classes = ("tumour",)  # of the label, by name: those that are learnt
    config.data.size = _any(144)  # voxels per axis; or D, H, W (feet-head, ...)
    config.data.fit = "crop"  # how the grid was placed: crop, resize, or whole, of any shape
    # Voxel size of crop and whole; or of right-left, front-back and feet-head.
    config.data.spacing_mm = _any(1.0)
    config.data.phantoms = 0  # where the folder is missing, make this many phantoms
    # HU that the network sees: wide, [-1024, 1024] as in the paper; soft, [-160, 240]; both, as
    # two images, ct and ct_soft; cohort, those of the training cases' tumours, standardised
    # (nnU-Net).
    config.data.ct_window = "wide"
    # PET that the network sees: case, standardised by its case's mean and deviation (Eq. 17); suv,
    # SUV over 5, the same for all.
    config.data.pet_scale = "case"
    # Voxels per axis of the patches that are trained on; or D, H, W; 0: whole volumes.
    config.data.patch = _any(0)

    config.augment = ConfigDict()
    config.augment.rotation_probability = 0.5  # of a case
    # Largest angle, either sign, about one to three axes; or of the feet-head, ... axis each.
    config.augment.rotation_degrees = _any(45.0)
    config.augment.rotation_of_all_axes = False  # True: always about all three (nnU-Net)
    config.augment.scaling_probability = 0.0  # of a case
    config.augment.scaling_range = (0.7, 1.4)  # above 1 things become smaller
    # The field of view cut on all sides, and what is left resized (of whole volumes only): of a
    # case; at most so much of it off each side.
    config.augment.crop_probability = 0.0
    config.augment.crop_share = 0.2
    # PET and others moved against the first image, whose label stays: of a case; at most, each way.
    config.augment.misalignment_probability = 0.0
    config.augment.misalignment_mm = 3.0
    config.augment.misalignment_degrees = 2.0
    config.augment.mirror_probability = 0.5  # of a case; each axis then with one half
    config.augment.mixup_probability = 0.2  # of a case, with another one
    # Share of the patches that are centred on a voxel of the tumour; in a batch of two, one has it.
    config.augment.tumour_patch_probability = 0.33

    # Of intensities, after normalisation, each of a case (isanet_jax/pipeline/intensity.py).
    config.augment.noise_probability = 0.0
    config.augment.noise_sigma = (0.0, 0.1)
    config.augment.blur_probability = 0.0  # and then of an image with one half
    config.augment.blur_sigma = (0.5, 1.0)  # voxels
    config.augment.brightness_probability = 0.0
    config.augment.brightness_range = (0.75, 1.25)
    config.augment.contrast_probability = 0.0
    config.augment.contrast_range = (0.75, 1.25)
    config.augment.low_resolution_probability = 0.0  # and then of an image with one half
    config.augment.low_resolution_zoom = (0.5, 1.0)
    config.augment.inverted_gamma_probability = 0.0
    config.augment.gamma_probability = 0.0
    config.augment.gamma_range = (0.7, 1.5)

    # Each at length in isanet_jax/network/config.py. A system reads some; others are refused.
    config.model = ConfigDict()
    config.model.name = "isa"  # "help" lists the systems
    config.model.width = 0  # channels of level 1; 0: the system's own (isa: 16)
    config.model.levels = 0  # resolutions; 0: the system's own (isa: 5)
    # Of nnunet... only, for each level along D, H, W: by how much it is smaller than that before,
    # and the size of its convolutions; (): 2s and 3s. configs/nnunet.py plans them.
    config.model.strides = ()
    config.model.kernels = ()
    config.model.deep_supervision = False  # of nnunet... and xie... only
    config.model.encoder_attention = (
        True  # two-branch networks; False: bottleneck and decoders only
    )
    config.model.reading = "code"  # of the paper's authors, or its text: docs/decisions.md
    config.model.fusion = "matmul"  # isa, Eq. 5: matmul, matmul_scaled or product
    # isa: its weights sum to 1, or mean: their mean is 1, or sigmoid: each is a gate of its own.
    config.model.weight_scale = "sum"
    config.model.modalities = ()  # the images that the network sees; (): all of data.images
    config.model.fusion_weights = (1.0, 1.0)  # two-branch networks: of each image in the decoder
    config.model.decoder = "dual"  # two-branch networks: as in the paper, or shared by all
    # Probability of every class that training starts from; less: small lesions are learnt sooner.
    config.model.prior = 0.5
    config.model.dtype = "float32"  # of the computation, or bfloat16; parameters stay float32
    config.model.convolution = "auto"  # form: native on GPUs, folded on CPUs
    # Less memory for more computation: none, convolutions, blocks or levels.
    config.model.remat = "none"

    config.loss = ConfigDict()
    config.loss.name = "dice_focal"  # as in the paper, or dice_ce: Dice + cross-entropy
    config.loss.batch_dice = False  # True: Dice of a batch's cases together, not of each
    config.loss.dice_squared = False  # True: V-Net's form
    config.loss.dice_smooth = 1e-3  # of the squared form
    config.loss.alpha = 0.5  # of the focal loss: weight of the tumour
    config.loss.gamma = 2.0  # of the focal loss: how much less well-classified voxels count
    config.loss.focal_weight = 1.0  # factor of the focal loss

    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"  # or adamw, or sgd with Nesterov momentum
    config.optimizer.peak_learning_rate = 3e-4  # at the start, and at each restart
    # Cosine with warm restarts; poly: (1 - e/E)^0.9; cosine: after a warm-up, down once.
    config.optimizer.schedule = "restart"
    config.optimizer.floor_learning_rate = 1e-6  # of restart and cosine
    config.optimizer.warmup_epochs = 0  # of cosine: from 0 to the peak
    config.optimizer.restart_epochs = 25  # of restart: between two of them
    config.optimizer.b1 = 0.9  # of adam and adamw
    config.optimizer.b2 = 0.99  # of adam and adamw
    config.optimizer.momentum = 0.99  # of sgd
    config.optimizer.weight_decay = 0.0  # L2 penalty, added to the gradient; adamw: decoupled
    config.optimizer.clip_norm = 0.0  # of the whole gradient; 0: not clipped
    # What an exponential average of the weights keeps at each step, as 0.999; it is what is
    # validated and predicts. 0: the weights themselves.
    config.optimizer.average = 0.0

    config.train = ConfigDict()
    config.train.epochs = 300  # of steps_per_epoch each
    config.train.batch = 1  # cases in a step, over all devices
    config.train.steps_per_epoch = 0  # 0: each training case once
    config.train.validate_every = 1  # epochs between validations and checkpoints
    # cases: each whole, the best single validation counts; patches: 50 drawn ones, the best
    # exponential average counts (nnU-Net).
    config.train.validate_on = "cases"

    config.predict = ConfigDict()
    config.predict.mirror = False  # True: mean over the eight mirror images

    config.mesh = ConfigDict()
    config.mesh.data = 1  # devices that a batch is split over
    config.mesh.space = 1  # devices that a volume is split over
    return config
