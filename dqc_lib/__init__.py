"""dqc: decentralized quality control for models that travel between medical centers.

The public names below are imported when first used, so that `import dqc_lib` costs nothing.
"""

from importlib import import_module

_HOMES = {
    "cohort": (
        "Cohort",
        "check_roles",
        "divide_held_out",
        "read_bids",
        "read_cohort",
        "read_published_csv",
        "split_by_subject",
        "write_bids",
    ),
    "detection": ("DETECTORS", "Detector", "score_images"),
    "evaluation": (
        "StepEffect",
        "SubgroupReport",
        "add_age_band",
        "compare_to_truth",
        "compute_alarm",
        "elimination_report",
        "evaluate_cycles",
        "evaluate_subgroups",
        "find_fewest",
        "repeat_alarm",
        "score_predictions",
        "subgroup_report",
        "tabulate_alarms",
    ),
    "fisher": ("GradientScale", "LogitProbe"),
    "federation": (),  # its names are for those who federate
    "figures": (
        "ARM_COLORS",
        "DECISION_COLORS",
        "draw_alarms",
        "draw_center_overview",
        "draw_center_timeline",
        "draw_centers",
        "draw_decisions",
        "draw_detectors",
        "draw_elimination",
        "draw_evidence",
        "draw_forest",
        "draw_gaps",
        "draw_histograms",
        "draw_history",
        "draw_rates",
        "draw_roc",
        "draw_slices",
        "draw_study",
        "draw_traffic",
        "draw_truth",
        "draw_update_norms",
        "draw_verification_surface",
        "draw_viewer",
    ),
    "harm": ("HARMS", "apply_harm", "flip_label", "parse_harm", "place_harm", "write_harmful"),
    "ledger": ("Ledger", "summarize_centers", "summarize_subjects"),
    "networks": (
        "build_sfcn",
        "freeze_normalization",
        "load_sfcn",
        "recalibrate_normalization",
    ),
    "phantom": ("Recipe", "draw_subjects", "paint_phantom", "read_published_sites", "write_phantoms"),
    "quality": (
        "CalibratedRule",
        "Counts",
        "Docket",
        "DriftGuard",
        "PublishedRule",
        "Verdict",
        "WatchingRule",
        "accumulate_evidence",
        "rank_among",
        "replay",
    ),
    "snapshots": ("restore_snapshot", "take_snapshot"),
    "travelling": (
        "Arm",
        "Cycle",
        "LocalCenters",
        "RunFolder",
        "Schedule",
        "Study",
        "Visit",
        "plan_cycles",
        "screen_centers",
        "travel",
        "watch",
    ),
    "report": ("list_pseudonyms", "write_report"),
    "volumes": ("Volume", "VolumeCache", "read_volume", "rescale_to_uint8", "write_volume"),
    "widgets": ("LedgerExplorer", "SliceViewer", "open_niivue"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = tuple(_HOMES)

__version__ = "0.1.0"
__all__ = sorted([*_HOME_OF, *_MODULES])


def __getattr__(name: str):
    if name in _MODULES:
        return import_module(f"dqc_lib.{name}")
    if name in _HOME_OF:
        return getattr(import_module(f"dqc_lib.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'dqc_lib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
