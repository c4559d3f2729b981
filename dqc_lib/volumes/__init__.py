"""Volumes: reading and writing NIfTI files, orientation, intensity, and a cache bounded in memory.

Arrays are (I, J, K), the first axis running to the subject's right, then anterior, then superior unless another
orientation is asked for. Affines map voxel indices to millimetres in RAS axes, as NIfTI has it. SimpleITK (arrays
K, J, I; millimetres in LPS axes) stays inside this package.
"""

from dqc_lib.volumes.cache import VolumeCache
from dqc_lib.volumes.files import AXES, LPS_TO_RAS, Volume, read_volume, write_volume
from dqc_lib.volumes.header import ENDINGS, HEADER_BYTES, MAX_VOXELS, VOXEL_TYPES, read_spacing
from dqc_lib.volumes.intensity import rescale_to_uint8

__all__ = [
    "AXES",
    "ENDINGS",
    "HEADER_BYTES",
    "LPS_TO_RAS",
    "MAX_VOXELS",
    "VOXEL_TYPES",
    "Volume",
    "VolumeCache",
    "read_spacing",
    "read_volume",
    "rescale_to_uint8",
    "write_volume",
]
