"""The model card says what was done and measured, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.research.train.card import licence_text, model_card
from models.spec import Bundle, TapSpec
from models.training.settings import TrainingSettings
from models.training_record import Case, Figures, Parent, TrainingRecord
from tests.support.bundles import SMALL_WINDOWS

SETTINGS = {name: getattr(TrainingSettings(steps=4), name) for name in TrainingSettings.__dataclass_fields__}


def case(patient: str, split: str, source: str = "") -> Case:
    return Case(patient, "0123", split, source, windows=3)


@pytest.fixture
def bundle():
    training = TrainingRecord(
        command="ctvae train DATA -o tiny",
        notes="- three phantoms, no patient",
        torch="2.13.0",
        data=(
            case("a", "train", "Made up, CC0"),
            case("b", "train", "Made up, CC0"),
            case("c", "calibration", "Made up, CC0"),
            case("d", "test", "Another, CC BY 4.0"),
        ),
        settings=SETTINGS,
        steps=4,
        elapsed_s=90.0,
        ended="finished",
        figures=Figures(3, 81.25, 99.0, 3, (1.5, 0.5, 0.25, 0.0)),
    )
    taps = (
        TapSpec("mu", (4,), "none"),
        TapSpec("sigma", (4,), "none"),
        TapSpec("block1", (8, 4, 8, 8), "mean", (8, 9, 9)),
    )
    return Bundle(Path("tiny"), "tiny", "1.2.3", "ct_vae", {}, SMALL_WINDOWS, taps, "0" * 64, training=training)


def test_the_card_has_the_measured_figures_and_the_warning(bundle):
    card = model_card(bundle)
    assert "Not for clinical use" in card
    assert "81.2 HU" in card
    assert "3 of 4" in card
    assert "| `block1` | 8 × 4 × 8 × 8 | mean | 8 × 9 × 9 mm |" in card
    assert "- three phantoms, no patient" in card


def test_the_card_counts_patients_and_volumes_by_split_and_source(bundle):
    card = model_card(bundle)
    assert "| train | 2 | 2 | 6 |\n| calibration | 1 | 1 | 3 |\n| test | 1 | 1 | 3 |" in card
    assert "- Made up, CC0: 2 train, 1 calibration\n" in card


def test_the_card_has_reference_patients_where_there_are_some(bundle):
    data = (*bundle.training.data, case("e", "reference", "Made up, CC0"))
    card = model_card(replace(bundle, training=replace(bundle.training, data=data)))
    assert "| calibration | 1 | 1 | 3 |\n| reference | 1 | 1 | 3 |\n| test |" in card
    assert "`reference` says which scans are unlike them" in " ".join(card.split())
    assert "reference" not in model_card(bundle)


def test_the_card_says_what_was_made_small(bundle):
    asked = {"likelihood": "laplace", "scale": 0.1, "penalty": "mmd", "penalty_weight": 5.0, "blur": 1.5, "ema": 0.99}
    card = model_card(replace(bundle, training=replace(bundle.training, settings=SETTINGS | asked)))
    for said in ("Laplace likelihood of scale 0.1", "InfoVAE", "weight 5", "blur up to 1.5", "decay 0.99"):
        assert said in " ".join(card.split()), said
    assert "learned scale" not in card


def test_the_card_names_every_view_that_is_drawn(bundle):
    drawn = dict.fromkeys(("noise", "gain", "blur", "sharpen", "shift", "thickness", "field_of_view", "zoom"), 0.5)
    card = model_card(replace(bundle, training=replace(bundle.training, settings=SETTINGS | drawn | {"crop": 0.25})))
    for name in drawn:
        assert f"{name.replace('_', ' ')} up to 0.5" in " ".join(card.split()), name
    assert "in 25% of the windows" in " ".join(card.split())


def test_the_card_names_the_bundle_that_was_fine_tuned(bundle):
    parent = Parent("parent", "0.1.0", "ab" * 32)
    card = model_card(replace(bundle, training=replace(bundle.training, init=parent)))
    assert f"Fine-tuned from parent 0.1.0, weights SHA-256 `{'ab' * 32}`" in card
    assert "Fine-tuned" not in model_card(bundle)


def test_a_certificate_stands_in_the_place_of_what_was_not_measured(bundle):
    certified = model_card(bundle, certificate="## Certificate\n\nICC 0.99\n")
    assert "was not measured here" in model_card(bundle)
    assert "was not measured here" not in certified
    assert (
        certified.index("## Measured")
        < certified.index("\n## Certificate\n\nICC 0.99\n")
        < certified.index("## Limits")
    )


def test_no_line_of_prose_is_longer_than_the_page(bundle):
    lines = [line for line in model_card(bundle).splitlines() if not line.startswith(("|", "    "))]
    assert max(map(len, lines)) <= 120


def test_a_dense_latent_is_summed_up(bundle):
    figures = replace(bundle.training.figures, kl=tuple(number / 1000 for number in range(1001)))
    card = model_card(replace(bundle, training=replace(bundle.training, figures=figures)))
    assert "least 0.00, quartiles 0.25, 0.50, 0.75, most 1.00, of 1001 dimensions" in card


def test_the_licence_names_each_origin_once(bundle):
    assert licence_text(bundle.training).count("- Made up, CC0\n") == 1


def test_every_term_and_every_change_of_a_view_is_named(bundle):
    drawn = {"offset": 0.01, "turn": 5.0, "tile": 0.25, "invariance": 0.5, "steadiness": 3.0}
    drawn |= {"parameters": {"clipped": True, "outlier": True, "orientation": True}}
    asked = SETTINGS | drawn | {"aggregate": 0.3, "mmd": 2.0, "trunk_until": 0.5, "bank": 40}
    card = " ".join(model_card(replace(bundle, training=replace(bundle.training, settings=asked))).split())
    assert "offset up to 0.01; turn up to 5" in card
    assert "What the heads read is clipped to the range that it has in windows of the training." in card
    assert "`outlier` was fitted afterwards: it tells windows of the training from what was made of them" in card
    turned = "`orientation` was learned afterwards: it tells chests of the training from the same upside down"
    assert turned in card
    assert "with weight 3 for what differs between them" in card
    assert "a third to two thirds of height and width in 25% of the second views" in card
    assert "deviations and covariances of mu over many windows from the prior's, with weight 0.3" in card
    assert "MMD, InfoVAE (arXiv:1706.02262) over many windows, with weight 2" in card
    assert "After 50% of the training the encoder's stages stayed" in card
