"""Brain phantoms of many centers: the MNI152 template, warped, aged, diseased and scanned.

Every subject is the MNI152 2009 T1 template under a random smooth diffeomorphic warp. Four effects are laid on top,
each with a strength of its own in `Recipe`: disease shrinks and darkens a deep bilateral region, ageing widens the
ventricles, sex scales the head, and each center's scanner has its own contrast, bias field, noise and resolution.
Nothing here is a patient: the phantoms show how a method behaves, not how a disease does.
"""

from dqc_lib.phantom.painting import Recipe, paint_phantom
from dqc_lib.phantom.subjects import SAMPLE_CENTERS, draw_subjects, read_published_sites
from dqc_lib.phantom.writing import write_phantoms

__all__ = ["SAMPLE_CENTERS", "Recipe", "draw_subjects", "paint_phantom", "read_published_sites", "write_phantoms"]
