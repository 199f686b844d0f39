"""The GPUs that steps can be planned for, as the makers publish them."""

import dataclasses

from isanet_jax.machine import GIB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """A card's published figures, and those of its architecture that XLA's compiler asks for.

    Attributes:
        name: of the device, in full.
        memory_bytes: of the device.
        bandwidth: of that memory, bytes/s.
        tflops: by dtype, dense matrix products; float32 is TF32, which XLA takes by default.
        capability: CUDA compute capability.
        cores: streaming multiprocessors.
        fpus: float32 units of each.
        clock_ghz: boost clock.
        l2_bytes: of the level-2 cache.
        shared_bytes: shared memory of a multiprocessor.
        threads: resident threads of a multiprocessor.
    """

    name: str
    memory_bytes: int
    bandwidth: float
    tflops: dict[str, float]
    capability: tuple[int, int]
    cores: int
    fpus: int
    clock_ghz: float
    l2_bytes: int
    shared_bytes: int
    threads: int

    def config_proto(self) -> str:
        """The card as XLA's GpuTargetConfigProto, in text form."""
        major, minor = self.capability
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {self.shared_bytes} threads_per_core_limit: {self.threads}
  core_count: {self.cores} fpus_per_core: {self.fpus}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {self.bandwidth:.0f} l2_cache_size: {self.l2_bytes}
  clock_rate_ghz: {self.clock_ghz} device_memory_size: {self.memory_bytes}
  shared_memory_per_block_optin: {self.shared_bytes - 1024}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  driver_version: "13.0.0" runtime_version: "12.9.0" compile_time_toolkit_version: "12.9.0"
  dnn_version: "9.12.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
device_description_str: "{self.name}"
"""


_AMPERE = {
    "bandwidth": 1.555e12, "tflops": {"float32": 156.0, "bfloat16": 312.0}, "capability": (8, 0),
    "cores": 108, "fpus": 64, "clock_ghz": 1.41, "l2_bytes": 40 * 2**20,
    "shared_bytes": 167936, "threads": 2048,
}  # fmt: skip
_GEFORCE = {"fpus": 128, "shared_bytes": 102400, "threads": 1536}

# Sources: NVIDIA's architecture white papers (GA100, GA102, AD102, GH100) and data sheets.
GPUS = {
    "rtx3090": Gpu(
        name="NVIDIA GeForce RTX 3090", memory_bytes=24 * GIB, bandwidth=936e9,
        tflops={"float32": 35.6, "bfloat16": 71.2}, capability=(8, 6), cores=82, clock_ghz=1.695,
        l2_bytes=6 * 2**20, **_GEFORCE,
    ),
    "rtx4090": Gpu(
        name="NVIDIA GeForce RTX 4090", memory_bytes=24 * GIB, bandwidth=1008e9,
        tflops={"float32": 82.6, "bfloat16": 165.2}, capability=(8, 9), cores=128, clock_ghz=2.52,
        l2_bytes=72 * 2**20, **_GEFORCE,
    ),
    "a100-40": Gpu(name="NVIDIA A100-SXM4-40GB", memory_bytes=40 * GIB, **_AMPERE),
    "a100-80": Gpu(
        name="NVIDIA A100-SXM4-80GB", memory_bytes=80 * GIB, **(_AMPERE | {"bandwidth": 2.039e12})
    ),
    "h100": Gpu(
        name="NVIDIA H100 80GB HBM3", memory_bytes=84942979072, bandwidth=3.35232e12,
        tflops={"float32": 494.7, "bfloat16": 989.4}, capability=(9, 0), cores=132, fpus=128,
        clock_ghz=1.98, l2_bytes=50 * 2**20, shared_bytes=233472, threads=2048,
    ),
}  # fmt: skip
