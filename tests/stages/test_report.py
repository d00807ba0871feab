"""`report`: losses outside the bands that the study expects."""

import pandas as pd
from toy_runs import TRAINING, toy_study

from mixar.stages.report import alarms_of


def test_the_report_marks_losses_outside_their_band_by_run_and_seed(tmp_path):
    study = toy_study(tmp_path, training={**TRAINING, "expected": {1: [0.0, 0.5], 2: [0.0, 2.0]}})
    curve = pd.DataFrame({"step": [2, 4], "epoch": [1.0, 2.0], "loss": [1.0, 1.0]})

    found = alarms_of(study, {("mar", 1): curve, ("mix", 0): curve.assign(loss=0.25)})

    assert found == ["MAR, seed 1: loss 1 at the end of epoch 1 is above the expected 0 to 0.5"]
