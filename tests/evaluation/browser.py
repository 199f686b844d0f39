"""A page in headless Chromium, driven by a script that leaves what it saw in an attribute."""

import html
import json
import re
import shutil
import subprocess

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


def driven(script):
    """A script for a page, which runs it within an async function and leaves `seen`."""
    return (
        "<script>(async () => { const seen = {}, wait = (ms) => new Promise((done) => "
        "setTimeout(done, ms)); try { while (!document.body.dataset.opened) await wait(5);\n"
        f"{script}\n}} catch (error) {{ seen.error = String(error.stack || error); }}\n"
        "document.body.dataset.seen = JSON.stringify(seen); })();</script></body>"
    )


def see(path, script, *, size=(1200, 1400)):
    """What a script's `seen` holds, see `driven`, of a page in a file."""
    page = path.with_name(f"{path.stem}-driven.html")
    page.write_text(path.read_text().replace("</body>", driven(script)))
    return seen_at(page.as_uri(), path.parent, size=size)


def seen_at(url, folder, *, size=(1200, 1400)):
    """What a page that drives itself has seen; one that throws fails the test."""
    if BROWSER is None:
        pytest.skip("Chromium is not installed")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={size[0]},{size[1]}",
    ]
    options += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=60000"]
    command = [BROWSER, *options, "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stderr[-1000:]
    content = json.loads(html.unescape(found.group(1)))
    assert "error" not in content, content["error"]
    return content
