"""Labelling by keyboard in a real browser: the widget in JupyterLab, the page of `trmml label`. Both end with ten rows in a file.

Needs anywidget, playwright and a Chromium (TRMML_CHROMIUM, one on the path, or playwright's own), JupyterLab and Voila; skipped where one
is missing, with the reason. TRMML_SCREENSHOTS=folder keeps pictures of both."""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WAIT = 300_000   # milliseconds; machines of tests are slow
TURN = "n => document.querySelector('.trmml-label')?.dataset.turn == n"


@pytest.fixture(scope='module')
def browser():
    "A headless Chromium."
    for name in 'anywidget', 'playwright.sync_api': pytest.importorskip(name, reason=f'{name} is not installed')
    from playwright.sync_api import Error, sync_playwright
    names = (os.environ.get('TRMML_CHROMIUM'), 'chromium', 'chromium-browser', 'google-chrome')
    own = next(filter(None, (shutil.which(n) for n in names if n)), None)
    with sync_playwright() as p:
        try: made = p.chromium.launch(executable_path=own, args=['--no-sandbox'], timeout=WAIT)
        except Error as error: pytest.skip(f'no Chromium to start: {str(error).splitlines()[0]}')
        yield made
        made.close()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path/'photos'; folder.mkdir()
    for k in range(12): Image.new('RGB', (300, 200 + 20*k), (20*k, 90, 200)).save(folder/f'{k:02}.jpg')
    return folder


@pytest.fixture
def started(tmp_path):
    "Starts programs in the background, in a world of their own; all are stopped at the end."
    running = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)   # ignored in the background of a shell, and then by children too
    env = os.environ | {f'JUPYTER_{k}_DIR': str(tmp_path/k) for k in ('CONFIG', 'DATA', 'RUNTIME')} | dict(
        PYTHONPATH=os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))), JUPYTER_PREFER_ENV_PATH='1')
    def start(*args):
        with open(tmp_path/'log', 'w') as log:
            running.append(subprocess.Popen([sys.executable, *map(str, args)], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=log, text=True))
        return running[-1]
    yield start
    for p in running:
        if p.poll() is None: p.terminate()
        try: p.wait(60)
        except subprocess.TimeoutExpired: p.kill()
    signal.signal(signal.SIGINT, before)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def answered(url, seconds=WAIT/1000):
    "The first answer of a server that is starting."
    end = time.time() + seconds
    while True:
        try: return urllib.request.urlopen(url, timeout=30)
        except (urllib.error.URLError, OSError):
            if time.time() > end: raise
            time.sleep(.5)


def press(tab, keys, turn=1):
    "Press keys, each when the answer to the last one is on the screen."
    for k, key in enumerate(keys):
        tab.wait_for_function(TURN, arg=str(turn + k), timeout=WAIT)
        tab.keyboard.press(key)
    tab.wait_for_function(TURN, arg=str(turn + len(keys)), timeout=WAIT)


def run_cell(tab):
    "Run the first cell of a notebook; JupyterLab forgets it where the kernel is not there yet."
    from playwright.sync_api import TimeoutError
    tab.wait_for_selector('.jp-Notebook .jp-CodeCell', timeout=WAIT)
    for _ in range(30):
        tab.click('.jp-CodeCell .cm-content', timeout=WAIT)
        tab.keyboard.press('Shift+Enter')
        try: return tab.wait_for_function("document.querySelector('.jp-InputPrompt').textContent.trim() != '[ ]:'", timeout=10_000)
        except TimeoutError: pass
    raise AssertionError('the cell does not run')


def keep(tab, name):
    "A picture for people, where they want one."
    if folder := os.environ.get('TRMML_SCREENSHOTS'): tab.screenshot(path=f'{folder}/{name}.png')


def rows(table): return pd.read_csv(table, index_col=0, dtype=object).fillna('')


def test_ten_photos_by_keyboard_in_jupyterlab(browser, photos, started, tmp_path):
    pytest.importorskip('jupyterlab', reason='JupyterLab is not installed')
    cell = dict(cell_type='code', id='a', metadata={}, outputs=[], execution_count=None,
                source="from trmml.photos import label\nlabel('photos', 'labels.csv', ['dog'], n=11)")
    spec = dict(name='python3', display_name='Python 3', language='python')
    (tmp_path/'n.ipynb').write_text(json.dumps(dict(cells=[cell], metadata=dict(kernelspec=spec), nbformat=4, nbformat_minor=5)))
    port = free_port()
    started('-m', 'jupyterlab', '--no-browser', '--allow-root', f'--ServerApp.port={port}', '--ServerApp.port_retries=0',
            '--ServerApp.ip=127.0.0.1', '--IdentityProvider.token=abc', f'--ServerApp.root_dir={tmp_path}')
    answered(f'http://127.0.0.1:{port}/api?token=abc')
    tab = browser.new_page(viewport=dict(width=1000, height=860))
    tab.goto(f'http://127.0.0.1:{port}/lab/tree/n.ipynb?token=abc', wait_until='commit', timeout=WAIT)
    run_cell(tab)
    tab.wait_for_selector('.trmml-image:not([hidden])', timeout=WAIT)
    tab.click('.trmml-question')
    press(tab, '001 ')                                      # "0 0" restarts a kernel, a space scrolls
    tab.keyboard.press('d'); tab.keyboard.press('d')        # deletes a cell, were it heard
    press(tab, ['u', *'101', 'Backspace', *'01010'], 5)
    assert tab.query_selector('.jp-Dialog') is None and tab.query_selector('.trmml-label')
    assert tab.inner_text('.trmml-progress').startswith('10 of 11, 0 skipped')
    keep(tab, 'lab')
    t = rows(tmp_path/'labels.csv')
    assert t.shape == (10, 1) and ''.join(t['dog']) == '0011001010'
    tab.click('.trmml-skip')                                # buttons do the same
    tab.wait_for_function("document.querySelector('.trmml-question').textContent.startsWith('Done')", timeout=WAIT)
    tab.click('.jp-CodeCell .cm-content')
    tab.keyboard.press('Control+Enter')                     # once more: the next round
    tab.wait_for_function(TURN, arg='1', timeout=WAIT)
    assert tab.inner_text('.trmml-progress').startswith('0 of 2, 0 skipped')
    assert len(rows(tmp_path/'labels.csv')) == 10
    tab.close()


def listening(port):
    "Local addresses on which a port listens, as Linux tells them."
    found = set()
    for name in '/proc/net/tcp', '/proc/net/tcp6':
        if not os.path.exists(name): continue
        for line in Path(name).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == '0A' and int(local.split(':')[1], 16) == port: found.add(local.split(':')[0])
    return found


def test_ten_photos_by_keyboard_on_the_page(browser, photos, started, tmp_path):
    pytest.importorskip('voila', reason='Voila is not installed')
    port, table = free_port(), tmp_path/'labels.csv'
    program = started('-c', 'from trmml.cli import main; main()', 'label', 'photos', 'labels.csv', '--class', 'dog', '-n', 11,
                      '--no-browser', '--port', port)
    url = program.stdout.readline().strip()
    assert url.startswith('http://127.0.0.1:') and len(url.split('?token=')[1]) >= 40, (tmp_path/'log').read_text()
    port = int(url.split(':')[2].split('/')[0])
    if sys.platform == 'linux': assert listening(port) == {'0100007F'}

    without = urllib.request.urlopen(url.split('?')[0])     # a visitor without the token is asked for it
    assert '/login' in without.url and b'trmml' not in without.read()
    with pytest.raises(urllib.error.HTTPError):             # no file of the folder, with the token either
        urllib.request.urlopen(url.replace('?', 'voila/files/labelling.ipynb?'))

    tab, elsewhere = browser.new_page(viewport=dict(width=720, height=620)), []
    away = lambda r: not r.url.startswith((url.split('?')[0], 'blob:', 'data:'))
    tab.on('response', lambda r: elsewhere.append(r.url) if away(r) else None)
    tab.on('requestfailed', lambda r: elsewhere.append(r.url) if away(r) and r.failure != 'csp' else None)
    tab.goto(url, wait_until='commit', timeout=WAIT)
    tab.wait_for_selector('.trmml-image:not([hidden])', timeout=WAIT)
    tab.wait_for_function("document.activeElement.className == 'trmml-label'", timeout=WAIT)   # keys work at once
    press(tab, '10 u10101010')
    keep(tab, 'page')
    assert tab.inner_text('.trmml-progress').startswith('10 of 11, 0 skipped')
    t = rows(table)
    assert t.shape == (10, 1) and ''.join(t['dog']) == '1010101010'
    assert not elsewhere, 'the page loads nothing from elsewhere'
    tab.close()
    program.send_signal(signal.SIGINT)
    assert program.wait(120) == 0
    assert 'Traceback' not in (tmp_path/'log').read_text()
