"""report.html in a real headless Chromium: what it shows, that it asks for nothing, and that its policy holds."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest

from deploycomp.report import write_report
from tests.report.example import EXAMPLES, wins

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OWN_HOSTS = ("google.com", "googleapis.com", "gstatic.com", "gvt1.com")
"""What the browser itself asks for at its start; names are never resolved in these tests."""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    return found


@dataclass
class Visit:
    dom: str
    console: list[str]
    hosts: set[str]

    @property
    def text(self) -> str:
        body = re.sub(r"<style.*?</style>|</?span[^>]*>", "", self.dom, flags=re.DOTALL)
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def visit(browser: str, page: Path, folder: Path) -> Visit:
    log = folder / "net.json"
    done = subprocess.run(
        [
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={log}",
            "--enable-logging=stderr",
            "--dump-dom",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )
    urls = re.findall(r'"url":"(?:https?|wss?|ftp)://([^/":]+)', log.read_text(encoding="utf-8"))
    hosts = {host for host in urls if not host.endswith(OWN_HOSTS)}
    return Visit(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line], hosts)


@pytest.mark.parametrize(("name", "plots"), [("wins", 5), ("bare", 1), ("loses", 5), ("tuned", 6)])
def test_the_page_in_a_browser(name, plots, browser, tmp_path):
    report = write_report(EXAMPLES[name](), tmp_path)
    seen = visit(browser, tmp_path / "report.html", tmp_path)
    precision = report["artifact"]["precision"].upper()
    assert f"<title>minilm-l6-sst2 → ONNX {precision} · deploycomp report</title>" in seen.dom
    assert seen.dom.count('<svg class="plot"') == plots
    assert seen.dom.count("<script") == 0
    assert seen.console == []
    assert seen.hosts == set()
    for words in ("PyTorch 90.9 MB", "What was done", "Parity with the source", "version: 1", "deploycomp report"):
        assert words in seen.text
    for warning in report["verdict"]["warnings"]:
        assert warning in seen.text
    assert report["verdict"]["headline"] in seen.text


def test_the_cells_of_the_table(browser, tmp_path):
    write_report(wins(), tmp_path)
    dom = visit(browser, tmp_path / "report.html", tmp_path).dom
    row = re.search(r'<tr class="artifact">.*?</tr>', dom, re.DOTALL)
    assert row is not None
    cells = [" ".join(unescape(re.sub(r"<[^>]+>", "", each)).split()) for each in re.findall(r"<td.*?</td>", row[0])]
    assert cells == [
        "23.0 MB 3.9× smaller",
        "0.610 ms at least 9.8× faster",
        "3.68 ms at least 6.2× faster",
        "3.35 ms at least 8.6× faster",
        "27.7 ms at least 5.9× faster",
        "131 MB 4.7× less",
        "89.33 % 87.1…91.2",
        "98.17 % 97.0…98.9",
    ]


def test_the_policy_of_the_page_stops_what_an_attacker_would_add(browser, tmp_path):
    write_report(wins(), tmp_path)
    page = tmp_path / "report.html"
    attack = '<img src="http://tracker.invalid/x.png"><script>document.title = "owned"</script></main>'
    page.write_text(page.read_text(encoding="utf-8").replace("</main>", attack), encoding="utf-8")
    seen = visit(browser, page, tmp_path)
    assert "<title>minilm" in seen.dom
    assert seen.hosts == set()
    assert len(seen.console) == 2  # and so an error would be seen in the other tests
    assert "Content Security Policy" in seen.console[0]


def test_a_request_would_be_seen(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<img src="http://tracker.invalid/x.png">', encoding="utf-8")
    assert visit(browser, page, tmp_path).hosts == {"tracker.invalid"}
