"""Draw the pictures of the README and of docs/explain.md: what `ctvae demo` prints, and a report's first page.

    python benchmarks/pictures.py demo
    python benchmarks/pictures.py explain report/report.html

Needs Debian's chromium. `demo` encodes the phantom into a temporary folder and shows the lines that say what came out;
“…” stands for the lines in between. docs/images/card.png is the card that the same run writes.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import subprocess
import sys
import tempfile
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
SHOWN = re.compile(
    r"\$ |written series|  40 ×|features:|[┏┃┡│└]|the Structured|CT VAE:|Imaging Meas"
    r"|\s+(Imaging Measurements|Measurement Group"
    r"|Finding:|Algorithm Name: ct_vae|Comment: Not for diagnosis\. |Verdict|Reconstruction error:"
    r"|Mean of the body|Lung in|Real voxels|VAE latent 0[01]|… \d+ more numbers)|files|\s+demo/"
)
STYLE = """
body { margin: 0; padding: 14px; background: #1a1b1f; color: #d4d7dc; font: 15px/20px "DejaVu Sans Mono", monospace;
       display: flex; gap: 24px; align-items: flex-start; }
pre { margin: 0; font: inherit; width: 60rem; overflow: hidden; } aside { color: #8f949c; margin-top: 62px; }
b { color: #fff; } .ok { color: #7fd18b; font-weight: bold; } img { width: 270px; display: block; margin: 4px 0 18px; }
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", choices=["demo", "explain"])
    parser.add_argument("report", type=Path, nargs="?", help="report.html of ctvae explain")
    args = parser.parse_args()
    if args.picture == "explain":
        shot(args.report.read_text(encoding="utf-8"), IMAGES / "explain.png", (1000, 1480))
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [Path(sys.executable).with_name("ctvae"), "demo"]
        said = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
        shot(demo_page(said, Path(folder) / "demo" / "phantom"), IMAGES / "demo.png", (1240, 600))


def shot(page: str, to: Path, size: tuple[int, int]) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": size[0], "height": size[1]})
        view.set_content(page)
        view.screenshot(path=to, full_page=to.stem == "demo")
        browser.close()
    Image.open(to).convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(to, optimize=True)


def demo_page(said: str, phantom: Path) -> str:
    """Return the page: the phantom's lines on the left, on the right its middle slice and its features."""
    (features,) = phantom.glob("results/*/features.json")
    mu = json.loads(features.read_text())["taps"]["mu"]["values"]
    lines: list[str] = []
    first = said.split("exit code")[0].splitlines()
    for line in first[next(k for k, one in enumerate(first) if one.startswith("$")) :]:
        of_model = bool(lines) and lines[-1].endswith("Algorithm Name: ct_vae")  # its version follows
        if (SHOWN.match(line) or of_model) and "voxels; select" not in line:
            lines.append(line if len(line) < 100 else f"{line[:99]}…")
        elif line.strip() and not lines[-1].endswith(("…", "Measurement Group")):
            lines.append(" " * (len(line) - len(line.lstrip())) + "…")
    while lines[-1].strip() == "…":
        lines.pop()
    text = re.sub("^(written .*)$", r'<span class="ok">\1</span>', escape("\n".join(lines)), flags=re.MULTILINE)
    text = re.sub(r"^(\$ .*|the Structured Report|files)$", r"<b>\1</b>", text, flags=re.MULTILINE)
    picture = base64.b64encode(coronal(phantom / "ct")).decode()
    return (
        f"<meta charset=utf-8><style>{STYLE}</style><pre>{text}</pre><aside>the phantom, coronal"
        f'<img src="data:image/png;base64,{picture}">mu, {len(mu)} dimensions{bars(mu)}</aside>'
    )


def coronal(folder: Path) -> bytes:
    """Return the middle coronal slice of the phantom as PNG, from -1000 to 400 HU, with cells of equal size in mm."""
    slices = sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda one: -one.ImagePositionPatient[2])
    hu = [one.pixel_array[one.Rows // 2] * one.RescaleSlope + one.RescaleIntercept for one in slices]
    middle, step_mm = (
        np.stack(hu).astype(np.float32),
        slices[0].ImagePositionPatient[2] - slices[1].ImagePositionPatient[2],
    )
    grey = Image.fromarray((np.clip((middle + 1000) / 1400, 0, 1) * 255).astype(np.uint8))
    shown, buffer = grey.resize((grey.width, round(grey.height * step_mm / slices[0].PixelSpacing[1]))), BytesIO()
    shown.save(buffer, "PNG")
    return buffer.getvalue()


def bars(mu: list[float]) -> str:
    """Return the features as bars about zero."""
    scale, wide = 60 / max(map(abs, mu)), 270 / len(mu)
    drawn = "".join(
        f'<rect x="{k * wide:.1f}" width="{wide - 1:.1f}" y="{70 - max(value, 0) * scale:.1f}" '
        f'height="{abs(value) * scale:.1f}" fill="#5aa0e6"/>'
        for k, value in enumerate(mu)
    )
    return f'<svg width="270" height="140" style="display:block"><path d="M0 70H270" stroke="#8f949c"/>{drawn}</svg>'


if __name__ == "__main__":
    main()
