"""Simulated measurements, and said to be: they carry effects that we put there, so that what an analysis finds can be
compared with what is true.

Every module says what is true of its data and what is not. A simulated site, scanner or vendor stands in for a real one
only where the question is about the method: whether a split leaks, whether a correction takes away more than it should.
"""

from dqc_lib.simulation.acquisition import HeaderRecipe, draw_headers, write_headers
from dqc_lib.simulation.clinical import ClinicalData, ClinicalRecipe, simulate_clinical
from dqc_lib.simulation.counts import CountRecipe, simulate_counts
from dqc_lib.simulation.eeg import EegRecipe, Recordings, simulate_eeg
from dqc_lib.simulation.hospitals import HospitalRecipe, Hospitals, simulate_hospitals
from dqc_lib.simulation.oct import OctRecipe, Scans, simulate_oct
from dqc_lib.simulation.people import Simulated, draw_people
from dqc_lib.simulation.regions import REGIONS, RegionRecipe, simulate_regions

__all__ = [
    "ClinicalData",
    "ClinicalRecipe",
    "CountRecipe",
    "EegRecipe",
    "HeaderRecipe",
    "HospitalRecipe",
    "Hospitals",
    "OctRecipe",
    "REGIONS",
    "Recordings",
    "RegionRecipe",
    "Scans",
    "Simulated",
    "draw_headers",
    "draw_people",
    "simulate_clinical",
    "simulate_counts",
    "simulate_eeg",
    "simulate_hospitals",
    "simulate_oct",
    "simulate_regions",
    "write_headers",
]
