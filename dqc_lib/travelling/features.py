"""What a model makes of images before it decides: the features that its last layer reads."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dqc_lib.arguments import require_kind
from dqc_lib.cohort import Cohort
from dqc_lib.networks import import_keras, load_sfcn
from dqc_lib.travelling.batches import make_batches
from dqc_lib.travelling.runs import Arm, list_models
from dqc_lib.volumes import VolumeCache

LAST = "flatten"  # the layer that the decision is made from


def read_features(arm: Arm, cohort: Cohort) -> pd.DataFrame:
    """Return the last features of an arm's final model for the subjects of a cohort.

    What they tell of the scanner the model may have learnt beside the disease, whatever it was asked.

    Parameters
    ----------
    arm : Arm
        Of a finished run.
    cohort : Cohort
        Volumes of the shape that the model was trained on, by the same centers or others.

    Returns
    -------
    DataFrame
        Index subject, one column a feature, from 0 up, float64.

    Raises
    ------
    ValueError, FileNotFoundError
        If the volumes have another shape, or the arm's models are gone.
    """
    require_kind("arm", arm, Arm, such_as="Study.run gives")
    require_kind("cohort", cohort, Cohort, such_as="read_cohort gives")
    paths = list_models(arm.folder)
    if not paths:
        raise FileNotFoundError(f"{arm.folder} holds no model of any cycle; expected the folder of a finished run")
    keras, model = import_keras(), load_sfcn(paths[-1])
    volumes = VolumeCache(cohort.table.set_index("subject")["path"].to_dict())
    if tuple(model.input_shape[1:4]) != tuple(volumes.shape):
        raise ValueError(f"the arm's model expects volumes of {model.input_shape[1:4]}, came {volumes.shape}")
    inner = keras.Model(model.input, model.get_layer(LAST).output)
    subjects = list(cohort.table["subject"])
    parts = [inner.predict_on_batch(batch) for batch in make_batches(volumes, subjects)]
    found = np.concatenate(parts)[: len(subjects)]  # the last batch may have been filled up
    columns = [f"feature {number}" for number in range(1, found.shape[1] + 1)]
    return pd.DataFrame(found.astype("float64"), index=pd.Index(subjects, name="subject"), columns=columns)
