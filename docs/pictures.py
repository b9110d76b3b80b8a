"""The pictures of the README and the pages: `python docs/pictures.py`, with Debian's chromium and chromium-driver.

Everything is made anew in a folder that goes away: a run on the demo's maps and, on fewer maps, a grid and a study for
what is about the page alone. All maps are simulated.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

DOCS = Path(__file__).parent.resolve()
HDMAP = [sys.executable, "-m", "hdmap_mlflow"]
PORT = "5077"
ONE = ["train", "patchcore"]  # the main job, of the demo's maps
MAPS = ["simulate", "--out", "maps", "--train", "24", "--test", "12"]  # fewer, for what is about the page alone
LEAN = ["--data-root", "maps", "--overrides", "tracking.figures=false,tracking.heatmaps=0,data.image_size=[64,64]"]
GRID = ["grid", "--models", "patchcore,padim", "--sources", "domain_A,domain_B", "--seeds", "0,1", "--no-ray", *LEAN]
STUDY = ["tune", "padim", "--condition", "quickstart", "--trials", "4", "--refit-seeds", "0", *LEAN]
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=2600,1000", "--hide-scrollbars")
VIEWS = {"hdmap-models": "mlflow_models.png", "hdmap-runs": "mlflow_runs.png", "hdmap-studies": "mlflow_studies.png"}
CLOSE = "button[aria-label*=lose]"  # Close, close
READY = "target_mean/image_AUROC", "val/image_AUROC"  # a column of every view stands on its page


def small(picture: Path, name: str) -> None:
    """Keep a picture as a PNG of 64 colours, a third of the size."""
    Image.open(picture).convert("RGB").quantize(64).save(DOCS / name, optimize=True)


def photograph(address: str, folder: Path) -> None:
    """A screenshot of each saved view, once its table is there."""
    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        for view, name in VIEWS.items():
            browser.get("about:blank")
            browser.get(re.sub(r"viewStateShareKey=[\w-]+", f"viewStateShareKey={view}", address))
            deadline = time.monotonic() + 90
            while not any(word in browser.page_source for word in READY) and time.monotonic() < deadline:
                time.sleep(0.5)
            time.sleep(4)  # the rows come after the columns
            for button in browser.find_elements(By.CSS_SELECTOR, CLOSE):  # of the assistant's pane and of the banner
                browser.execute_script("arguments[0].click()", button)
            time.sleep(1)
            browser.save_screenshot(str(folder / name))
            small(folder / name, name)
    finally:
        browser.quit()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "COLUMNS": "120"}

        def hdmap(*words: str, **env_more: str) -> None:
            subprocess.run([*HDMAP, *words], check=True, cwd=folder, env=env | env_more)

        hdmap(*ONE, MLFLOW_TRACKING_URI=f"sqlite:///{folder}/one.db")
        [picture] = folder.glob("results/patchcore/*/heatmaps/domain_A/fault/most_1_*.png")
        small(picture, "map.png")
        for words in (MAPS, GRID, STUDY):
            hdmap(*words)
        server = subprocess.Popen(
            [*HDMAP, "ui", "--port", PORT], cwd=folder, env=env, stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout
            photograph(server.stdout.readline().rpartition(" ")[2].strip(), folder)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
