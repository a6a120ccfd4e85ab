"""Pages in a headless Chromium: `make test-browser`. Skipped, saying why, where a piece is missing."""
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# What visdom 0.2.4's download_scripts() fetches: {npm package: {file in it: file in visdom/static}}.
SCRIPTS = {
    "jquery@3.1.1": {"dist/jquery.min.js": "js/jquery.min.js"},
    "bootstrap@3.3.7": {"dist/js/bootstrap.min.js": "js/bootstrap.min.js",
                        "dist/css/bootstrap.min.css": "css/bootstrap.min.css",
                        "dist/fonts/glyphicons-halflings-regular.woff2": "fonts/glyphicons-halflings-regular.woff2"},
    "react@16.2.0": {"umd/react.production.min.js": "js/react-react.min.js"},
    "react-dom@16.2.0": {"umd/react-dom.production.min.js": "js/react-dom.min.js"},
    "react-modal@3.1.10": {"dist/react-modal.min.js": "js/react-modal.min.js"},
    "plotly.js-dist-min@2.11.1": {"plotly.min.js": "js/plotly-plotly.min.js"},
    "sjcl@1.0.7": {"sjcl.js": "js/sjcl.js"},
    "layout-bin-packer@1.4.0": {"dist/layout-bin-packer.js": "js/layout_bin_packer.js"},
    "d3@3.5.17": {"d3.min.js": "js/d3.v3.min.js"},
    "d3-selection-multi@1.0.1": {"build/d3-selection-multi.js": "js/d3-selection-multi.v1.js"},
    "save-svg-as-png@1.4.17": {"lib/saveSvgAsPng.js": "js/saveSvgAsPng.js"},
    "react-resizable@1.4.6": {"css/styles.css": "css/react-resizable-styles.css"},
    "react-grid-layout@0.16.3": {"css/styles.css": "css/react-grid-layout-styles.css"},
    "mathjax@2.7.5": {name: f"js/mathjax/2.7.5/{name}" for name in (
        "MathJax.js", "config/TeX-AMS-MML_HTMLorMML.js", "config/Safe.js", "extensions/Safe.js",
        "jax/output/SVG/jax.js", "jax/output/SVG/config.js", "jax/output/SVG/fonts/TeX/fontdata.js")},
}


def pytest_collection_modifyitems(items):
    """They need a browser and, for visdom's scripts, npm: only where they are asked for."""
    for item in items:
        if "browser" in item.path.parts and not os.environ.get("TEST_BROWSER"):
            item.add_marker(pytest.mark.skip(reason="make test-browser runs it"))


@pytest.fixture(scope="session")
def browser():
    """Chromium, through playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make extras")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """An empty page that collects the errors of its scripts in `page.errors`."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.set_default_timeout(120_000)
    yield page
    page.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory) -> Path:
    """The folder for pictures: SCREENSHOTS, or a temporary one."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def visdom_with_scripts(tmp_path_factory) -> int:
    """The port of a visdom server whose page has its scripts, in a copy of the package."""
    import visdom

    folder = tmp_path_factory.mktemp("visdom")
    shutil.copytree(Path(visdom.__file__).parent, folder / "visdom")
    _fetch_scripts(folder)
    command = [sys.executable, "-c", "from visdom.server.run_server import main; main()"]
    with served(command, lambda port: ["-port", str(port), "-env_path", str(folder), "-bind_local"],
                env={**os.environ, "PYTHONPATH": str(folder)}) as port:
        yield port


def _fetch_scripts(folder: Path):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: it brings the scripts of visdom's page")
    packed = subprocess.run(["npm", "pack", "--silent", *SCRIPTS], cwd=folder, capture_output=True, text=True,
                            check=False)
    if packed.returncode:
        pytest.skip(f"npm can't fetch the scripts of visdom's page: {packed.stderr.strip()[-300:]}")
    for package, files in SCRIPTS.items():
        with tarfile.open(folder / f"{package.replace('@', '-')}.tgz") as tar:
            for name, place in files.items():
                target = folder / "visdom" / "static" / place
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(f"package/{name}").read())


@contextmanager
def served(command: list[str], make_flags, *, env=None):
    """Start a server and yield its port once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([*command, *make_flags(port)], env=env, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline and process.poll() is None, "the server didn't start"
            time.sleep(0.2)
        yield port
    finally:
        process.kill()
        process.wait()
