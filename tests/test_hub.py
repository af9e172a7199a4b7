"""The hub: a model pushed to a small server that speaks as much of its protocol as the client asks for, and fetched from there."""
import base64
import hashlib
import json
import os
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml

import trmml.data
from trmml import TRMML
from trmml.photos import ModelError

warnings.simplefilter('ignore')
COMMIT = 'a'*40


class Hub(BaseHTTPRequestHandler):
    "Repositories in memory: create, preupload, commit, info, resolve."
    repos, asked = {}, []

    def log_message(self, *_): pass

    @property
    def here(self): return f'http://127.0.0.1:{self.server.server_port}'

    def reply(self, what, status=200, **headers):
        data = what if isinstance(what, bytes) else json.dumps(what).encode()
        self.send_response(status)
        for k, v in dict({'Content-Type': 'application/json', 'Content-Length': str(len(data))}, **headers).items(): self.send_header(k, v)
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(data)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0)); path = self.path.split('?')[0]; self.asked.append((self.command, path))
        if path == '/api/repos/create':
            said = json.loads(body); name = '/'.join(filter(None, (said.get('organization'), said['name']))); name = name if '/' in name else f'me/{name}'
            if 'forbidden' in name: return self.reply({'error': 'no'}, 403)
            self.repos.setdefault(name, {}); return self.reply({'url': f'{self.here}/{name}', 'id': name})
        if path.endswith('/validate-yaml') or path == '/api/validate-yaml': return self.reply({'errors': [], 'warnings': []})
        repo = '/'.join(path.split('/')[3:5])
        if '/preupload/' in path:
            return self.reply({'files': [dict(path=f['path'], uploadMode='regular', shouldIgnore=False) for f in json.loads(body)['files']]})
        if '/commit/' in path:
            for line in map(json.loads, body.splitlines()):
                if line['key'] == 'file': self.repos[repo][line['value']['path']] = base64.b64decode(line['value']['content'])
                if line['key'] == 'deletedFile': self.repos[repo].pop(line['value']['path'], None)
            return self.reply({'commitUrl': f'{self.here}/{repo}/commit/{COMMIT}', 'commitOid': COMMIT, 'pullRequestUrl': None})
        self.reply({'error': path}, 404)

    def do_GET(self):
        path = self.path.split('?')[0]; self.asked.append((self.command, path)); parts = path.strip('/').split('/')
        if path.startswith('/api/whoami'): return self.reply({'name': 'me', 'type': 'user', 'orgs': [], 'auth': {}})
        repo = '/'.join(parts[2:4] if parts[0] == 'api' else parts[:2])
        if repo not in self.repos: return self.reply({'error': 'Repository not found'}, 404, **{'X-Error-Code': 'RepoNotFound'})
        files = self.repos[repo]
        if parts[0] == 'api' and 'tree' in parts:
            return self.reply([dict(type='file', path=n, size=len(d), oid=hashlib.sha1(d).hexdigest()) for n, d in files.items()])
        if parts[0] == 'api':
            return self.reply({'id': repo, 'sha': COMMIT, 'private': False, 'tags': [], 'siblings': [{'rfilename': n, 'size': len(d)} for n, d in files.items()]})
        name = '/'.join(parts[4:])
        if name not in files: return self.reply({'error': 'Entry not found'}, 404, **{'X-Error-Code': 'EntryNotFound'})
        self.reply(files[name], **{'ETag': f'"{hashlib.sha1(files[name]).hexdigest()}"', 'X-Repo-Commit': COMMIT})

    do_HEAD = do_GET


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    root = tmp_path_factory.mktemp('hub'); os.environ['TRMML_FEATURES'] = str(root/'features')
    ds = trmml.data.load('doodles', 'train', root=root, train=24, test=4, progress=False, n_jobs=1)
    at = (ds.labels == 1).sum(0).argsort()[-3:]
    m = TRMML([ds.classes[i] for i in at], 'doodle-clip', epochs=1, workers=0, progress=False)
    yield m.fit(list(ds.paths), (ds.labels[:, at] == 1).astype(int)), list(ds.paths)
    del os.environ['TRMML_FEATURES']


@pytest.fixture
def server(monkeypatch, tmp_path):
    from huggingface_hub import constants
    with ThreadingHTTPServer(('127.0.0.1', 0), Hub) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{httpd.server_port}'
        monkeypatch.setenv('HF_ENDPOINT', url); monkeypatch.setenv('HF_TOKEN', 'hf_test')
        for name in ('HF_HUB_CACHE', 'HF_XET_CACHE'): monkeypatch.setattr(constants, name, str(tmp_path/'cache'), raising=False)
        monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
        Hub.repos.clear(); Hub.asked.clear()
        yield url
        httpd.shutdown()


def test_push_and_fetch(server, model):
    m, paths = model
    assert 'me/doodles' in m.push_to_hub('me/doodles', license='apache-2.0')
    files = Hub.repos['me/doodles']; card = files['README.md'].decode()
    assert set(map(lambda n: n.split('-')[0], files)) == {'model.json', 'README.md', 'weights'}
    front = yaml.safe_load(card.split('---\n')[1])
    assert front['library_name'] == 'trmml' and front['pipeline_tag'] == 'image-classification' and front['license'] == 'apache-2.0'
    if 'mAP' in m.metrics_: assert front['model-index'][0]['results'][0]['metrics'][0]['value'] == round(m.metrics_['mAP'], 4)
    assert "TRMML.from_hub('me/doodles')" in card and str(Path(paths[0]).parent) not in ''.join(f.decode('latin-1') for f in files.values())
    again = TRMML.from_hub('me/doodles', progress=False)
    np.testing.assert_array_equal(again.predict_proba(paths[:3]), m.predict_proba(paths[:3]))
    m.push_to_hub('me/doodles')   # a second time: the same files
    assert set(Hub.repos['me/doodles']) == set(files)


def test_what_the_hub_refuses(server, model):
    with pytest.raises(ConnectionError, match='me/nothing on the hub: there is no such repository, or it is private') as error: TRMML.from_hub('me/nothing')
    assert '\n' not in str(error.value)
    with pytest.raises(ConnectionError, match='not allowed: run "hf auth login"'): model[0].push_to_hub('me/forbidden')
    Hub.repos['me/other'] = {'README.md': b'# other'}
    with pytest.raises(ModelError, match='holds no model.json; it is no model of trmml'): TRMML.from_hub('me/other')
    for name in ('doodles', 'a b/c', '', 3):
        with pytest.raises(ValueError, match="write 'user/name'"): TRMML.from_hub(name)


def test_a_push_keeps_the_checkpoint(server, model, tmp_path):
    "What a fit that is not saved could be gone on from is still there."
    m = model[0]; m.checkpoint_ = tmp_path/'x.ckpt'; m.checkpoint_.touch()
    m.push_to_hub('me/doodles')
    assert m.checkpoint_.is_file(); m.checkpoint_ = None
