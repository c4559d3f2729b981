"""Names that are markup or script: text in every figure, page, widget and object that shows itself."""

import ast
import json
import re
from pathlib import Path

import gallery
import ipywidgets
import nbformat
import numpy as np
import pandas as pd
import pytest
import test_figures as plain
import test_figures_acquisition as acquisition
import test_figures_centers as centers
import test_figures_fairness as fairness
import test_figures_harmonization as harmonized
import test_figures_rules as rules
import test_figures_signals as signals
import test_figures_synthesis as synthesis
import test_figures_traffic as traffic
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dqc_lib import figures, harmonization, pages
from dqc_lib.cohort import Cohort
from dqc_lib.evaluation import SubgroupReport, subgroup_report
from dqc_lib.federation import FederatedRun
from dqc_lib.harmonization import Admission, Groups, SiteAssociation
from dqc_lib.ledger import COLUMNS, Ledger
from dqc_lib.privacy import measure_membership, tabulate_epsilons
from dqc_lib.simulation import RegionRecipe, simulate_regions
from dqc_lib.synthesis import Finding, Generator, GeneratorShape, Traffic, TrainedArm, TrainingSchedule
from dqc_lib.volumes import Volume, VolumeCache, write_volume
from dqc_lib.widgets import LedgerExplorer, SliceViewer

ROOT = Path(__file__).parent.parent
HOSTILE = (
    "<img src=x onerror=alert(1)></script><script>alert(2)</script><a href='javascript:alert(3)'>&lt;b&gt; %{y}</a>"
)
OURS = r"</?(?:br|sup|b|extra|span)(?: style=\"font-size:10px\")?>"  # what our own figures mark up
BAIT = re.compile(r"<(?:img|script|a )|</script")

# figures


def replace_names(table, **more):
    """Return a table with every text of its columns of names made hostile, in the cells and in the index."""
    names = (
        "arm",
        "subgroup",
        "group",
        "scanner",
        "center",
        "kind",
        "rule",
        "detector",
        "combine",
        "subject",
        "note",
        "call",
    )
    table = table.assign(
        **{
            name: [f"{value}{HOSTILE}" if value and value not in KEPT else value for value in table[name]]
            for name in names
            if name in table
        }
    )
    return table.assign(**more)


KEPT = ("overall", "center", "single", "good", "all")
LEDGER = centers.LEDGER.assign(
    center=[name + HOSTILE for name in centers.LEDGER["center"]],
    subjects=[[name + HOSTILE for name in names] for names in centers.LEDGER["subjects"]],
)
COHORT = Cohort(
    centers.COHORT.table.assign(
        subject=centers.COHORT.table["subject"] + HOSTILE,
        center=centers.COHORT.table["center"] + HOSTILE,
        scanner=HOSTILE,
    ),
    f"/{HOSTILE}",
)
VOLUMES = {HOSTILE: plain.VOLUME, f"other {HOSTILE}": plain.VOLUME}
DRAWN = {
    "draw_alarms": lambda title: figures.draw_alarms(rules.ALARMS, title=title),
    "draw_arms_by_shift": lambda title: synthesis.draw_over_shift(title, HOSTILE),
    "draw_autocorrelation": lambda title: synthesis.draw_lags(title, HOSTILE),
    "draw_bscans": lambda title: signals.DRAWINGS["bscans"](title, HOSTILE),
    "draw_center_overview": lambda title: figures.draw_center_overview(
        LEDGER, cohort=COHORT, controls=True, title=title
    ),
    "draw_center_timeline": lambda title: figures.draw_center_timeline(LEDGER, f"A{HOSTILE}", title=title),
    "draw_centers": lambda title: figures.draw_centers(COHORT.by_center(), title=title),
    "draw_compliance": lambda title: figures.draw_compliance(replace_names(acquisition.SUMMARY), title=title),
    "draw_criteria": lambda title: figures.draw_criteria({HOSTILE: {"time": Finding(0.1, unit=HOSTILE)}}, title=title),
    "draw_decisions": lambda title: figures.draw_decisions(LEDGER, title=title),
    "draw_detectors": lambda title: figures.draw_detectors(
        replace_names(rules.DETECTORS), sees={f"loss{HOSTILE}": HOSTILE}, title=title
    ),
    "draw_effects": lambda title: figures.draw_effects(harmonized.make_effects(HOSTILE), axis=HOSTILE, title=title),
    "draw_elimination": lambda title: figures.draw_elimination(replace_names(fairness.ELIMINATION), title=title),
    "draw_epsilons": lambda title: figures.draw_epsilons(
        tabulate_epsilons({HOSTILE: 20}, noise_multiplier=1.0, steps=1, sampling_rate=0.1), title=title
    ),
    "draw_evidence": lambda title: figures.draw_evidence(
        replace_names(rules.make_evidence(HOSTILE)), alpha=0.05, title=title
    ),
    "draw_fidelity": lambda title: synthesis.draw_measures(title, HOSTILE),
    "draw_fold_differences": lambda title: signals.DRAWINGS["differences"](title, HOSTILE),
    "draw_folds": lambda title: signals.DRAWINGS["folds"](title, HOSTILE),
    "draw_forest": lambda title: figures.draw_forest(replace_names(fairness.ARMS), metric="sensitivity", title=title),
    "draw_gaps": lambda title: figures.draw_gaps(replace_names(fairness.GAPS), metric="auroc", title=title),
    "draw_groups_by_site": lambda title: figures.draw_groups_by_site(
        acquisition.COUNTS.rename(index=lambda name: name + HOSTILE, columns=lambda name: name + HOSTILE), title=title
    ),
    "draw_histograms": lambda title: figures.draw_histograms(VOLUMES, title=title),
    "draw_history": lambda title: figures.draw_history(replace_names(plain.HISTORY), title=title),
    "draw_interval_rows": lambda title: signals.DRAWINGS["intervals"](title, HOSTILE),
    "draw_inversion": lambda title: figures.draw_inversion({HOSTILE: np.eye(3)}, title=title),
    "draw_knob": lambda title: figures.draw_knob(harmonized.make_knob(HOSTILE), x=HOSTILE, y=HOSTILE, title=title),
    "draw_membership": lambda title: figures.draw_membership({HOSTILE: (np.arange(9.0), np.ones(9))}, title=title),
    "draw_parameter": lambda title: figures.draw_parameter(
        replace_names(acquisition.TABLE), "flip_angle", protocol=acquisition.PROTOCOL, title=title
    ),
    "draw_persistence": lambda title: synthesis.draw_codes(title, HOSTILE),
    "draw_privacy_utility": lambda title: figures.draw_privacy_utility(
        pd.DataFrame({"arm": [HOSTILE], "epsilon": 1.0, "value": 0.5, "low": 0.4, "high": 0.6, "n": 9}),
        axis=HOSTILE,
        title=title,
    ),
    "draw_probes": lambda title: signals.DRAWINGS["probes"](title, HOSTILE),
    "draw_rates": lambda title: figures.draw_rates(LEDGER, title=title),
    "draw_roc": lambda title: figures.draw_roc(
        rules.SCORES.rename(columns=lambda name: name + HOSTILE), harmful=rules.HARMFUL, title=title
    ),
    "draw_shift": lambda title: synthesis.draw_pairs(title, HOSTILE),
    "draw_site_distributions": lambda title: figures.draw_site_distributions(
        {HOSTILE: pd.Series([1.0, 2.0])}, [HOSTILE, "other"], axis=HOSTILE, title=title
    ),
    "draw_slices": lambda title: figures.draw_slices(VOLUMES, cursor=True, title=title),
    "draw_spectra": lambda title: signals.DRAWINGS["spectra"](title, HOSTILE),
    "draw_stability": lambda title: figures.draw_stability(replace_names(acquisition.STABILITY), title=title),
    "draw_study": lambda title: figures.draw_study(
        replace_names(rules.SUMMARY), groups=["center", f"new scanner{HOSTILE}"], title=title
    ),
    "draw_trade": lambda title: figures.draw_trade(harmonized.make_trade(even=HOSTILE), title=title),
    "draw_traffic": lambda title: figures.draw_traffic(replace_names(traffic.TRAFFIC), title=title),
    "draw_truth": lambda title: figures.draw_truth({HOSTILE: plain.TRUTH.rename(index=str)}, title=title),
    "draw_update_norms": lambda title: figures.draw_update_norms(LEDGER, harmful={f"a2{HOSTILE}"}, title=title),
    "draw_utility": lambda title: synthesis.draw_hospitals(title, HOSTILE),
    "draw_verification_surface": lambda title: figures.draw_verification_surface(LEDGER, title=title),
    "draw_viewer": lambda title: figures.draw_viewer(VOLUMES, title=title),
    "draw_ways": lambda title: figures.draw_ways(
        harmonized.make_ways(way=HOSTILE, measured=HOSTILE).iloc[:1], axis=HOSTILE, chance=HOSTILE, title=title
    ),
}
CLICKED = {"draw_center_overview", "draw_center_timeline"}  # a mark's customdata begins with a name that is not shown
NAMELESS = {"draw_alarms", "draw_verification_surface"}  # they show no name beside the title
every_figure = pytest.mark.parametrize("name", DRAWN)


def test_every_figure_of_the_library_is_tried():
    assert set(DRAWN) == {name for name in figures.__all__ if name.startswith("draw_")}


@every_figure
def test_no_name_is_markup_or_a_template_in_a_figure(name, list_texts):
    figure = DRAWN[name](f"Title {HOSTILE}")
    texts = list_texts(figure, but=r"/customdata(/\d+)+/0$" if name in CLICKED else "")
    left = [re.sub(OURS, "", text) for text in texts]
    assert [text for text in left if "<" in text or BAIT.search(text)] == []
    assert not [text for text in texts if "%{y}" in text and text not in get_templates(figure)]
    assert not [text for text in get_templates(figure) if "img" in text or "script" in text]
    shown = figure.layout.title.text
    assert "&lt;img" in shown and (name in NAMELESS or any("&lt;img" in text for text in texts if text != shown))


def get_templates(figure):
    return [trace.hovertemplate for trace in figure.data if trace.hovertemplate]


def test_hostile_figures_are_drawn_as_text_in_a_browser(chromium_page, tmp_path):
    drawn = [json.loads(draw(f"Title {HOSTILE}").to_json()) for draw in DRAWN.values()]
    body = "".join(pages.draw_figure(figure) for figure in drawn)
    page = chromium_page(pages.write_page(tmp_path / "p.html", pages.fill_page(title=HOSTILE, body=body)))
    page.until("[...document.querySelectorAll('.plotly-figure')].every(box => box.querySelector('.main-svg'))")
    assert page.locator(".plotly-figure").count() == len(DRAWN)
    assert page.locator("img").count() == page.locator("a[href^='javascript']").count() == 0
    assert page.locator("svg a").count() == 0
    assert page.locator("script:not([type])").count() == 2
    assert (page.title(), page.seen.dialogs, page.seen.errors) == (HOSTILE, [], [])


# objects that show themselves


def make_ledger():
    ledger = Ledger()
    row = dict.fromkeys(COLUMNS) | {"cycle": 0, "stage": "control", "level": "batch", "decision": "accepted"}
    ledger.append(**row | {"center": HOSTILE, "subjects": [HOSTILE], "n": 1, "seconds": 0.1})
    ledger.path = Path(HOSTILE.replace("/", ""))
    return ledger


def make_report():
    rng = np.random.default_rng(0)
    rows = {"subject": [str(at) for at in range(40)], "diagnosis": np.arange(40) % 2, "score": rng.random(40)}
    table = pd.DataFrame(rows).assign(**{HOSTILE: np.where(np.arange(40) % 4 < 2, HOSTILE, "other")})
    return subgroup_report(table, by=[HOSTILE])


def make_federated_run(folder):
    traffic = pd.DataFrame({"cycle": 1, "call": ["train"], "calls": 1, "out_mb": 1.0, "back_mb": 1.0})
    ledger = make_ledger()
    return FederatedRun(folder / HOSTILE.replace("/", ""), ledger.to_frame(), ledger.list_presences(), traffic, {})


def make_measurements():
    """Return features, sites and labels of forty subjects; every name is hostile."""
    values = np.random.default_rng(0).poisson(50, (40, 4)).astype(float)
    return pd.DataFrame(values, columns=[f"{HOSTILE}{n}" for n in range(4)]), [HOSTILE, "b"] * 20, [0, 0, 1, 1] * 10


def harmonize(fit):
    values, sites, labels = make_measurements()
    return fit(values, sites, pd.DataFrame({HOSTILE: labels}, dtype=float))


def cross_validated():
    values, _, labels = make_measurements()
    return harmonization.cross_validate(values, labels, [f"{HOSTILE}{n}" for n in range(40)], seed=1)


def compare_with_chance(folder):
    values, _, labels = make_measurements()
    return harmonization.compare_to_chance(values, labels, [f"{HOSTILE}{n}" for n in range(40)], permutations=3, seed=1)


SHOWING = {
    "Admission": lambda folder: Admission(COHORT, COHORT.table, COHORT.table[["center"]].assign(n=1, admitted=False)),
    "ChanceComparison": compare_with_chance,
    "Cohort": lambda folder: COHORT,
    "Combat": lambda folder: harmonize(harmonization.fit_combat),
    "CombatSeq": lambda folder: harmonize(harmonization.fit_combat_seq),
    "FederatedRun": make_federated_run,
    "FoldComparison": lambda folder: harmonization.compare_folds(cross_validated(), cross_validated()),
    "Generator": lambda folder: Generator(GeneratorShape(n_codes=3, n_visits=2), [], []),
    "Groups": lambda folder: Groups(pd.Series([HOSTILE, "b"]), HOSTILE, pd.DataFrame(), 0),
    "Ledger": lambda folder: make_ledger(),
    "MembershipAttack": lambda folder: measure_membership(np.arange(9.0), np.ones(9)),
    "Protocol": lambda folder: acquisition.PROTOCOL,
    "SiteScores": lambda folder: harmonization.fit_site_scores(*make_measurements()[:2]),
    "SiteDecoding": lambda folder: harmonization.decode_sites(*make_measurements()[:2], seed=1, n_resamples=20),
    "Simulated": lambda folder: simulate_regions(RegionRecipe(sites=(4, 3))),
    "SiteAssociation": lambda folder: SiteAssociation(acquisition.COUNTS, 15, 1.0, 0.5, 9, 0.2),
    "SubgroupReport": lambda folder: make_report(),
    "TrainedArm": lambda folder: TrainedArm(HOSTILE, TrainingSchedule(), {}, {HOSTILE: 1}, Traffic(), 1, 1.0),
    "Volume": lambda folder: Volume(plain.VOLUME[0], np.eye(4)),
    "VolumeCache": lambda folder: VolumeCache({HOSTILE: folder / HOSTILE.replace("/", "")}),
}


def test_every_class_that_shows_itself_is_tried():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "dqc_lib").rglob("*.py")]
    kinds = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    methods = {node.name: {part.name for part in node.body if isinstance(part, ast.FunctionDef)} for node in kinds}
    assert set(SHOWING) == {name for name, found in methods.items() if "_repr_html_" in found}
    live = {name for name, found in methods.items() if "_ipython_display_" in found}
    assert live == {"LedgerExplorer", "SliceViewer"}, "tried below"


@pytest.mark.parametrize("name", SHOWING)
def test_an_object_that_shows_itself_escapes_every_name(name, tmp_path):
    shown = SHOWING[name](tmp_path)._repr_html_()
    assert shown.startswith(f"<b>{name}</b>")
    assert "<" not in re.sub(r"</?b>", "", shown)


def test_tables_that_we_return_are_escaped_by_pandas():
    for table in (COHORT.by_center(), LEDGER, make_report().table()):
        assert not BAIT.search(table.to_html()) and "&lt;img" in table.to_html()
    assert isinstance(make_report(), SubgroupReport)


# widgets


def list_widgets(widget):
    """Yield a widget and all that are in it."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from list_widgets(child)


def check_widgets(widget):
    """Raise where a widget would show a name as markup."""
    found = list(list_widgets(widget))
    for part in found:
        if isinstance(part, ipywidgets.HTML | ipywidgets.HTMLMath | ipywidgets.Label):
            assert not BAIT.search(part.value), part.value
        assert not getattr(part, "description_allow_html", False)
        for name in ("description", "placeholder", "tooltip"):
            assert not BAIT.search(str(getattr(part, name, "") or "")), name
        if hasattr(part, "to_plotly_json"):
            content = json.loads(part.to_json())
            content["layout"].pop("meta", None)
            texts = re.findall(r'"((?:[^"\\]|\\.)*)"', json.dumps([content["layout"], strip_data(content["data"])]))
            assert not [text for text in texts if BAIT.search(text)]
    return found


def strip_data(traces):
    return [{key: value for key, value in trace.items() if key != "customdata"} for trace in traces]


@pytest.mark.parametrize("readable", [True, False])
def test_explorers_show_names_as_text_whatever_is_chosen(tmp_path, readable):
    table = COHORT.table.copy()
    for at in table.index:
        path = tmp_path / f"{at}.nii.gz"
        array = np.random.default_rng(at).integers(0, 99, (5, 6, 7)).astype(np.uint8)
        table.loc[at, "path"] = str(write_volume(path, array, affine=np.eye(4)) if readable else f"/no/{HOSTILE}.nii")
    explorer = LedgerExplorer(LEDGER, cohort=Cohort(table, tmp_path))
    for center in explorer.center.options:
        explorer.center.value = center
        for _, subject in explorer.subject.options:
            explorer.subject.value = subject
            for _, beside in [
                option if isinstance(option, tuple) else (0, option) for option in explorer.beside.options
            ]:
                explorer.beside.value = beside
                check_widgets(explorer.widget)
    explorer.cycles.value = (3, 3)
    explorer.center.value = f"B{HOSTILE}"
    explorer.cycles.value = (5, 5)
    assert len(check_widgets(explorer.widget)) > 10
    assert HOSTILE in explorer.center.value, "a list shows it as text"


def test_the_slice_viewer_shows_labels_and_title_as_text():
    volume = Volume(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.eye(4))
    viewer = SliceViewer({HOSTILE: volume, f"2{HOSTILE}": volume}, title=HOSTILE)
    viewer.sliders["axial"].value = 20
    assert "&lt;img" in viewer._said.value
    assert len(check_widgets(viewer.widget)) > 5


# pages of notebooks


def test_a_notebook_may_be_called_anything(chromium_page, tmp_path):
    name = "00_\" onmouseover='alert(1)' <img src=x onerror=alert(2)> %41#?&amp;"
    table = pd.DataFrame({"center": [HOSTILE]})
    outputs = [
        new_output("execute_result", data={"text/html": table._repr_html_(), "text/plain": HOSTILE}),
        new_output("stream", name="stdout", text=HOSTILE),
        new_output("error", ename=HOSTILE, evalue=HOSTILE, traceback=[HOSTILE]),
        new_output("display_data", data={gallery.PLOTLY: json.loads(DRAWN["draw_centers"](HOSTILE).to_json())}),
        new_output("display_data", data={"image/png": '"><img src=x onerror=alert(4)>'}),
    ]
    copies = []
    for stem in (name, "01_second"):
        cells = [new_markdown_cell("text without heading"), new_code_cell(f"# {HOSTILE}", outputs=outputs)]
        copies.append(tmp_path / f"{stem}.ipynb")
        nbformat.write(new_notebook(cells=cells), copies[-1])
    gallery.write_gallery(copies, folder=tmp_path / "gallery", source=tmp_path)
    page = chromium_page(tmp_path / "gallery" / "index.html")
    page.until("[...document.querySelectorAll('.plotly-figure')].every(box => box.querySelector('.main-svg'))")
    links = page.locator("h2 a")
    assert links.all_text_contents() == [name, "01_second"]
    assert [page.locator("[onmouseover]").count(), page.locator("img[src=x]").count()] == [0, 0]
    links.first.click()
    page.until("document.querySelector('footer') !== null && document.title !== 'dqc: the executed notebooks'")
    assert page.title() == name
    assert page.locator("footer span").first.text_content() == name
    assert page.locator("td", has_text="<img src=x onerror=alert(1)>").count() == 1
    assert page.seen.dialogs == []
