"""The `ctvae` command: one module per command, imported only when called. How to call it, not what it does."""

from __future__ import annotations

import sys

COMMANDS = {
    "encode": "Encode a folder of CT: features.json and features.sr.dcm for each series.",
    "inspect": "List the series of a folder: geometry, verdict and reason. Writes nothing.",
    "export": "Write each CT volume, and the windows that the encoder sees, as NIfTI.",
    "demo": "Encode a phantom or your own folder, and show the results.",
    "table": "Write the features of many series as one table: Parquet or CSV.",
    "cohort": "Encode thousands of studies into one table; can be interrupted and resumed.",
    "explain": "Test features against labels, with controls: one HTML report, CSV and JSON.",
    "similar": "List the series of a table that are most similar to a given one.",
    "drift": "Compare the features of periods or scanners with those of a reference.",
    "listen": "Receive CT from a PACS or modality, encode each complete series, send the results.",
    "watch": "Encode each CT series that appears in a folder or on a DICOMweb server.",
    "train": "Train a VAE on your own scans and write it as a bundle with its model card.",
    "bundle": "Show, check, certify, export or run a bundle; import a Keras or MONAI checkpoint.",
    "queue": "Inspect the queue of listen and watch; retry, replay, purge, audit.",
    "map": "Build and check the container image (a MONAI Application Package).",
    "doctor": "Check the installation and reproduce the bundle's golden values.",
    "schema": "Print the JSON Schema of features.json.",
}
ABOUT = "A CT study goes in, reproducible VAE features come out, as DICOM SR and JSON. Not for diagnosis."
EPILOG = """
Exit code: 0 written, 1 something failed, 2 nothing to write, 3 could not start.

ctvae COMMAND --help describes a command; ctvae --version prints the version.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; None for those of the process.

    Returns:
        The exit code, see `app.exit_codes` (3 for a wrong call).
    """
    from app.cli.lazy import LazyGroup

    arguments = sys.argv[1:] if argv is None else argv
    if arguments == ["--version"]:
        from operators import __version__

        sys.stdout.write(f"ctvae {__version__}\n")
        return 0
    return LazyGroup("ctvae", "app.cli", COMMANDS, help=ABOUT, epilog=EPILOG).run(arguments)
