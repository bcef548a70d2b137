"""A bundle holds its reference population and its decoder; both are digested, checked when it is loaded, and golden."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.bundle.check import check_golden_decoder
from models.bundle.golden import GOLDEN, read_golden
from models.bundle.reference import open_reference, read_reference, reference_json
from models.bundle.store import add_decoder, add_reference, amend_bundle, load_bundle
from models.runtime import Decoder, load_vae, open_decoder
from models.spec import BundleError
from models.statistics.out_of_distribution import Population
from models.training_record import Case
from tests.support.bundles import write_small_bundle

RNG = np.random.default_rng(3)
MADE = Population(
    RNG.standard_normal((9, 4)).astype(np.float32).astype(np.float64),
    np.ones((9, 4)),
    np.linspace(40, 60, 9).astype(np.float32).astype(np.float64),
)
OUTLIERS = np.linspace(-9.1, 1.2, 9).astype(np.float32).astype(np.float64)
ORIENTATIONS = np.array([0.0] * 5 + [-3.1, -2.2, -1.4, 0.02]).astype(np.float32).astype(np.float64)
REFERENCE = Path("configs", "reference.json")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_small_bundle(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def decoder_bytes(tmp_path_factory):
    made = write_small_bundle(tmp_path_factory.mktemp("models") / "small", decoder=True)
    assert made.decoder_sha256 is not None
    return made.decoder_path.read_bytes()


@pytest.fixture
def bundle(plain, decoder_bytes, tmp_path):
    """A copy with decoder and reference population, that may be broken."""
    path = Path(shutil.copytree(plain.path, tmp_path / "small"))
    with_decoder = add_decoder(path, decoder_bytes)
    return add_reference(path, reference_json(with_decoder, MADE, [Case("P1", "k1", "reference")], "onnxruntime"))


def test_weights_encoder_and_golden_values_stay_as_they_were(plain, bundle):
    assert (bundle.weights_sha256, bundle.onnx_sha256) == (plain.weights_sha256, plain.onnx_sha256)
    for name in ("models/model.safetensors", "models/encoder.onnx", "docs/README.md"):
        assert (bundle.path / name).read_bytes() == (plain.path / name).read_bytes()
    before, after = (json.loads((one.path / GOLDEN).read_bytes()) for one in (plain, bundle))
    assert before.items() <= after.items()


def test_what_was_written_is_what_is_read(bundle):
    read = read_reference(bundle)
    order = np.lexsort(MADE.mu.T[::-1])
    assert np.array_equal(read.mu, MADE.mu[order])
    assert np.array_equal(read.error_ratios, MADE.error_ratios[order])
    opened = open_reference(bundle)
    assert opened.decoder is not None and opened.sha256 == bundle.reference_sha256
    assert (read.outliers, read.orientations) == (None, None)
    assert not [name for name in (b"outlier", b"orientation") if name in bundle.reference_path.read_bytes()]


@pytest.fixture(scope="module")
def scoring(tmp_path_factory):
    """Without reference patients, but with a network that gives an outlier score and an orientation score."""
    return write_small_bundle(tmp_path_factory.mktemp("models") / "small", outlier=True, orientation=True)


@pytest.fixture
def scored(scoring, tmp_path):
    """A copy with reference patients."""
    path = Path(shutil.copytree(scoring.path, tmp_path / "scored"))
    population = replace(MADE, outliers=OUTLIERS, orientations=ORIENTATIONS)
    return add_reference(path, reference_json(scoring, population, [], "onnxruntime"))


KINDS = pytest.mark.parametrize("kind", ["outlier", "orientation"])


def test_scores_are_written_and_read_in_the_order_of_the_others(scored):
    read, order = read_reference(scored), np.lexsort(MADE.mu.T[::-1])
    assert np.array_equal(read.mu, MADE.mu[order])
    assert np.array_equal(read.outliers, OUTLIERS[order])
    assert np.array_equal(read.orientations, ORIENTATIONS[order])
    what = json.loads(scored.reference_path.read_bytes())["what"]
    assert "block" in what and "outlier score" in what and "orientation score" in what


@KINDS
@pytest.mark.parametrize("missing", ["absent", "null"])
def test_a_network_that_gives_scores_needs_those_of_its_reference_patients(scored, missing, kind):
    document = json.loads(scored.reference_path.read_bytes())
    document[f"{kind}_scores"] = None
    if missing == "absent":
        del document[f"{kind}_scores"]
    with pytest.raises(BundleError, match=rf"no {kind} scores, but .* make it again with `ctvae bundle reference`"):
        add_reference(scored.path, json.dumps(document).encode())


@KINDS
def test_scores_that_the_network_does_not_give_are_refused(bundle, kind):
    document = json.loads(bundle.reference_path.read_bytes()) | {f"{kind}_scores": [0.5] * 9}
    with pytest.raises(BundleError, match=rf"has {kind} scores, but .* make it again with `ctvae bundle reference`"):
        add_reference(bundle.path, json.dumps(document).encode())


def test_scores_of_null_are_none(bundle):
    document = json.loads(bundle.reference_path.read_bytes()) | {"outlier_scores": None, "orientation_scores": None}
    read = read_reference(add_reference(bundle.path, json.dumps(document).encode()))
    assert (read.outliers, read.orientations) == (None, None)


@KINDS
@pytest.mark.parametrize("scores", [[1.0], [None] * 9, "many", [[0.5]] * 9])
def test_damaged_scores_are_refused(scored, scores, kind):
    document = json.loads(scored.reference_path.read_bytes()) | {f"{kind}_scores": scores}
    with pytest.raises(BundleError, match=r"reference\.json is damaged .*`ctvae bundle reference`"):
        add_reference(scored.path, json.dumps(document).encode())


def test_the_rows_of_the_file_do_not_tell_whose_is_which(bundle):
    again = Population(MADE.mu[::-1], MADE.sigma[::-1], MADE.error_ratios[::-1])
    assert reference_json(bundle, again, [Case("P1", "k1", "reference")], "onnxruntime") == (
        bundle.reference_path.read_bytes()
    )


def test_a_bundle_without_reference_patients_has_none(plain):
    assert (plain.reference_sha256, read_reference(plain), open_reference(plain)) == (None, None, None)
    assert open_decoder(plain) is None


def test_the_decoder_gives_what_torch_gives(bundle):
    import torch

    mu = RNG.standard_normal((2, 4)).astype(np.float32)
    with torch.inference_mode():
        expected = load_vae(bundle).decode(torch.from_numpy(mu)).clamp(0, 1).numpy()[:, 0]
    assert np.allclose(list(Decoder(bundle).run(mu)), expected, atol=1e-5)


def test_mu_of_another_length_is_refused(bundle):
    with pytest.raises(ValueError, match="expected float32"):
        next(Decoder(bundle).run(np.zeros((1, 5), np.float32)))


def test_a_decoder_of_another_size_is_refused(bundle):
    latents = replace(
        bundle, taps=tuple(replace(tap, shape=(5,)) if len(tap.shape) == 1 else tap for tap in bundle.taps)
    )
    with pytest.raises(BundleError, match=r"decoder\.onnx takes and gives"):
        Decoder(latents)


def test_the_decoder_has_golden_values(bundle):
    assert read_golden(bundle).reconstruction.shape == (64,)
    assert check_golden_decoder(bundle).good is True

    document = json.loads((bundle.path / GOLDEN).read_bytes())
    document["reconstruction"][7] += 0.01
    amend_bundle(bundle.path, {GOLDEN: json.dumps(document).encode()})
    assert check_golden_decoder(bundle).good is False


def test_without_a_decoder_the_check_says_so(plain):
    assert check_golden_decoder(plain).good is None


def test_another_decoder_takes_the_population_with_it(bundle, decoder_bytes):
    again = add_decoder(bundle.path, decoder_bytes)
    assert again.reference_sha256 is None and not (bundle.path / REFERENCE).exists()


@pytest.mark.parametrize("name", ["configs/reference.json", "models/decoder.onnx"])
def test_one_changed_byte_is_noticed(bundle, name):
    content = bytearray((bundle.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle.path / name).write_bytes(bytes(content))
    with pytest.raises(BundleError, match=rf"{name} has SHA-256"):
        load_bundle(bundle.path)


@pytest.mark.parametrize("name", ["configs/reference.json", "models/decoder.onnx"])
def test_a_missing_file_is_named(bundle, name):
    (bundle.path / name).unlink()
    with pytest.raises(BundleError, match=f"no {name} in the bundle"):
        load_bundle(bundle.path)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("weights_sha256", "ab" * 32, "belongs to weights abab"),
        ("mu", [[0.0], [1.0]], "damaged"),
        ("mu", None, "damaged"),
        ("error_ratios", [1.0], "damaged"),
    ],
)
def test_a_population_that_cannot_be_is_not_put_into_the_bundle(bundle, field, value, says):
    before = bundle.reference_path.read_bytes()
    document = json.loads(before) | {field: value}
    with pytest.raises(BundleError, match=rf"reference\.json .*{says}.*`ctvae bundle reference`|{says}"):
        add_reference(bundle.path, json.dumps(document).encode())
    assert load_bundle(bundle.path).reference_path.read_bytes() == before


def test_a_population_of_other_latents_is_refused(bundle):
    wider = Population(RNG.standard_normal((9, 5)), np.ones((9, 5)), None)
    with pytest.raises(BundleError, match="has 5 dimensions; expected 4"):
        add_reference(bundle.path, reference_json(bundle, wider, [], "onnxruntime"))


@pytest.mark.parametrize("name", ["configs/reference.json", "configs//reference.json"])
def test_it_cannot_be_amended_behind_its_digest(bundle, name):
    with pytest.raises(BundleError, match="cannot be put into a bundle"):
        amend_bundle(bundle.path, {name: b"{}"})
