"""ISA-Net for PET/CT tumour segmentation in JAX (Huang et al. 2022).

The sub-packages follow the data's one way, and each imports only from those before it:
`scans` -> `cases` -> `pipeline` -> `network` -> `training` -> `planning` -> `prediction` ->
`evaluation`.
"""

__version__ = "0.1.0"
