"""What may be rented: memory and speed of kinds of GPUs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from halo_lightning.arguments import nearest
from halo_lightning.errors import ConfigError


class GPU(NamedTuple):
    """A kind of GPU.

    Attributes:
        name: Its name.
        gibibytes: Memory that a program finds, in GiB: a little less than what the name says.
        half_tflops: Peak rate in bfloat16 or float16 with float32 sums, without sparsity, in 10¹² FLOP/s (data sheet).
        single_tflops: Peak rate in float32, without TF32.
    """

    name: str
    gibibytes: float
    half_tflops: float
    single_tflops: float

    @property
    def bytes(self) -> float:
        """Memory in bytes."""
        return self.gibibytes * 2**30

    def flops(self, bits: int) -> float:
        """Peak rate with numbers of so many bits, in FLOP/s."""
        return 1e12 * {16: self.half_tflops, 32: self.single_tflops}.get(bits, self.single_tflops / 2)


GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("H200 141 GB", 139.8, 989, 67),
        GPU("H100 80 GB", 79.1, 989, 67),
        GPU("A100 80 GB", 79.1, 312, 19.5),
        GPU("A100 40 GB", 39.4, 312, 19.5),
        GPU("L40S 48 GB", 44.4, 362, 91.6),
        GPU("A6000 48 GB", 47.4, 155, 38.7),
        GPU("RTX 4090 24 GB", 23.5, 165, 82.6),
        GPU("A10 24 GB", 22.0, 125, 31.2),
        GPU("L4 24 GB", 22.0, 121, 30.3),
    )
}


def gpus_named(names: Iterable[str]) -> list[GPU]:
    """The kinds with these names, or parts of names; all for none.

    Raises:
        ConfigError: There is none of that name.
    """
    found: dict[str, GPU] = {}
    for name in names:
        matching = {full: gpu for full, gpu in GPUS.items() if _plain(name) in _plain(full)}
        if not matching:
            raise ConfigError(f"--gpu {name!r} is not known{nearest(name, GPUS)} (known: {', '.join(GPUS)})")
        found |= matching
    return list((found or GPUS).values())


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
