"""`ctvae bundle import-torch`: from a checkpoint of one of MONAI's autoencoders to a bundle."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import LogLevelOption, NewBundleOption, SpacingOption, VersionOption, WindowHuOption
from app.process import LogLevel, guarded, starting

if TYPE_CHECKING:
    from models.spec import Bundle, Preprocessing

logger = logging.getLogger(__name__)

CARD = """# {name}

The autoencoder of a checkpoint (SHA-256 `{sha256}`), architecture `{architecture}`, read at its posterior mean{grid}.
Imported by ctvae. Ask its maker what it was trained on and under which licence its weights may be used.

Not for clinical use. `ctvae bundle certify` measures what its features are good for.
"""
LICENCE = (
    "The weights come from a checkpoint that was imported; their maker says under which licence they may be used.\n"
)


def command(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="State dict: .pt, .pth or .safetensors.")],
    output: NewBundleOption,
    parameters: Annotated[
        Path, typer.Option("--params", help="JSON file with the network's arguments under MONAI's names.")
    ],
    architecture: Annotated[
        str, typer.Option("--arch", help="Architecture: autoencoder_kl, autoencoder_kl_maisi or var_autoencoder.")
    ],
    window_voxels: Annotated[str, typer.Option(help="Z,Y,X: size of the input.")] = "",
    spacing: SpacingOption = None,
    window_hu: WindowHuOption = None,
    fit: Annotated[
        str,
        typer.Option(
            help="window: cut windows from the scan at --spacing; resize: resize the whole scan to one window."
        ),
    ] = "window",
    overlap: Annotated[float, typer.Option(help="Overlap of windows along z, as a fraction.")] = 0.5,
    axes: Annotated[
        str,
        typer.Option(
            help="Axes of the arrays that it was trained on: SPL as in ctvae, RAS as from MONAI's Orientation."
        ),
    ] = "",
    version: VersionOption = "0.1.0",
    log_level: LogLevelOption = LogLevel.WARN,
) -> int:
    """Make a bundle from a checkpoint of MONAI's autoencoders. Runs no code from the file.

    Without --window-hu, and --spacing or --fit resize, the bundle accepts only arrays (ctvae bundle run), and encode
    refuses it.
    """

    def run() -> int:
        from app.cli.bundle import preprocessing_of
        from app.open_bundle import bundle_errors
        from models.importers.torch_checkpoint import read_parameters
        from models.networks.autoencoder_kl import NATIVE_AXES

        with starting(), bundle_errors():
            given = read_parameters(parameters, architecture, axes or NATIVE_AXES)
            if window_voxels:
                given["window_voxels"] = window_voxels
            settings = preprocessing_of(given.get("window_voxels"), spacing, window_hu, fit, overlap)
            given["window_voxels"] = list(settings.window_voxels)
            if axes:
                given["axes"] = axes
            elif settings.fit != "array":
                text = (
                    "taken for a network of arrays (z, y, x) towards head, back and left; if its training had MONAI's "
                )
                logger.warning("%sOrientation(axcodes='RAS'), import it again with --axes RAS", text)
            bundle = imported(checkpoint, output, architecture, given, settings, version)
        sys.stdout.write(f"{bundle.name} {bundle.version}: {', '.join(tap.name for tap in bundle.taps)}\n")
        return 0

    return guarded(run, log_level)


def imported(
    checkpoint: Path,
    output: Path,
    architecture: str,
    parameters: dict[str, Any],
    settings: Preprocessing,
    version: str,
) -> Bundle:
    """Return the bundle of a checkpoint, written to `output`.

    Raises:
        BundleError: the checkpoint, the parameters or the output cannot be used.
    """
    from models.bundle.export import encoder_onnx, tap_specs
    from models.bundle.store import save_bundle
    from models.importers.torch_checkpoint import import_checkpoint
    from models.networks.registry import all_parameters
    from models.spec import Bundle
    from models.training_record import Imported, TrainingRecord

    vae, sha256 = import_checkpoint(checkpoint, architecture, parameters)
    name = output.resolve().name
    grid = ":\n`latent` is the grid, `mu` its mean over the grid for each channel" if "latent" in vae.tap_names else ""
    bundle = Bundle(
        path=output,
        name=name,
        version=version,
        architecture=architecture,
        architecture_parameters=all_parameters(architecture, parameters),
        preprocessing=settings,
        taps=tap_specs(vae, settings.spacing_mm),
        weights_sha256="",
        training=TrainingRecord(imported=Imported("torch", sha256)),
    )
    return save_bundle(
        bundle,
        weights={key: tensor.numpy() for key, tensor in vae.state_dict().items()},
        onnx=encoder_onnx(vae),
        card=CARD.format(name=name, sha256=sha256, architecture=architecture, grid=grid),
        licence=LICENCE,
        monai={},
    )
