"""Servers that lie, drip, never end or change the file: the next mirror has it, or one sentence names the reason; never more bytes than the file has."""
import errno
import hashlib
import socket
import threading
import time
import warnings

import pytest

from trmml.data import fetch as engine
from trmml.data.fetch import File, fetch

BODY = bytes(range(256))*400   # 102,400 bytes
GOOD = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n' % len(BODY)


class Site:
    "A server of raw bytes: path -> function (connection, request) that answers."
    def __init__(self):
        self.asked, self.sent, self.routes = [], {}, dict(good=lambda c, r: c.sendall(GOOD + BODY))
        self.server = socket.create_server(('127.0.0.1', 0)); self.url = f'http://127.0.0.1:{self.server.getsockname()[1]}/'
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try: c, _ = self.server.accept()
            except OSError: return
            threading.Thread(target=self.one, args=(c,), daemon=True).start()

    def one(self, c):
        with c:
            try:
                request = c.recv(65536).decode('latin-1'); name = request.split()[1].lstrip('/'); self.asked.append((name, request))
                self.routes[name](c, request)
            except (OSError, IndexError, KeyError): pass


@pytest.fixture
def site():
    s = Site(); yield s; s.server.close()


def answer(head, body=b''): return lambda c, r: c.sendall(head.encode('latin-1') + b'\r\n\r\n' + body)


def endless(c, r):
    c.sendall(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n')
    for _ in range(2000): c.sendall(bytes(10**5))   # 200 MB


def chunks(c, r):
    c.sendall(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
    for _ in range(2000): c.sendall(b'186a0\r\n' + bytes(10**5) + b'\r\n')


def drip(c, r):
    c.sendall(GOOD)
    for k in range(100): c.sendall(BODY[k:k+1]); time.sleep(.1)


def drip_head(c, r):
    for b in b'HTTP/1.1 200 OK\r\nX: ' + b'a'*200: c.sendall(bytes([b])); time.sleep(.1)


OK = 'HTTP/1.1 200 OK'
FOUL = {'Content-Length in words': answer(f'{OK}\r\nContent-Length: abc'), 'Content-Length below 0': answer(f'{OK}\r\nContent-Length: -5'), 'a huge Content-Length': answer(f'{OK}\r\nContent-Length: {"9"*50}'),
        'two Content-Lengths': answer(f'{OK}\r\nContent-Length: 5\r\nContent-Length: 7', b'12345'), 'redirect to nowhere': answer('HTTP/1.1 302 F\r\nLocation: http://[::bad'), 'redirect to a file': answer('HTTP/1.1 302 F\r\nLocation: file:///etc/passwd'),
        'redirect in a circle': answer('HTTP/1.1 302 F\r\nLocation: /redirect in a circle'.replace(' in a circle', '%20in%20a%20circle')), 'redirect without an address': answer('HTTP/1.1 302 F\r\nContent-Length: 0'), 'redirect to rubbish': answer('HTTP/1.1 301 F\r\nLocation: \xff\xfe://x'),
        '416 to no range': answer('HTTP/1.1 416 Range\r\nContent-Length: 0'), '206 to no range': answer(f'HTTP/1.1 206 P\r\nContent-Range: rubbish\r\nContent-Length: {len(BODY)}', BODY), 'no HTTP': lambda c, r: c.sendall(b'SSH-2.0-OpenSSH\r\n'),
        'nothing': lambda c, r: None, 'a garbled status': answer('HTTP/1.1 abc'), 'status 999': answer('HTTP/1.1 999 x\r\nContent-Length: 0'), 'a header of 100 kB': answer(f'{OK}\r\nX: {"a"*10**5}'), '1000 headers': answer(OK + '\r\nX: 1'*1000),
        'chunks of no length': answer(f'{OK}\r\nTransfer-Encoding: chunked', b'zz\r\nabc'), 'gzip that is none': answer(f'{OK}\r\nContent-Encoding: gzip\r\nContent-Length: 20', b'x'*20), 'short': lambda c, r: c.sendall(GOOD + BODY[:5000]),
        'endless': endless, 'endless in chunks': chunks, 'a drip': drip, 'a drip of headers': drip_head, 'gone': answer('HTTP/1.1 404 N\r\nContent-Length: 0'), 'zeros': lambda c, r: c.sendall(bytes(10**5)), 'another file': lambda c, r: c.sendall(GOOD + BODY[::-1])}


@pytest.mark.parametrize('kind', FOUL)
def test_the_next_mirror_is_asked(site, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(engine, 'LEAST', 100_000)
    site.routes[name := kind.replace(' ', '%20')] = FOUL[kind]
    file = File('x.bin', (site.url + name, site.url + 'good'), len(BODY), hashlib.sha256(BODY).hexdigest()); start = time.time(); seen = []
    write = engine._write
    def watched(answer, part, *args):
        try: write(answer, part, *args)
        finally: seen.append(part.stat().st_size if part.exists() else 0)
    monkeypatch.setattr(engine, '_write', watched)
    assert fetch(file, tmp_path, timeout=.5, attempts=1, pause=0).read_bytes() == BODY
    assert time.time() - start < 8 and max(seen) <= len(BODY) and {a for a, _ in site.asked} == {name, 'good'}
    assert sorted(p.name for p in tmp_path.iterdir()) in (['x.bin'], ['x.bin', 'x.bin.lock'])


@pytest.mark.parametrize('kind', FOUL)
def test_alone_it_is_one_sentence(site, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(engine, 'LEAST', 100_000)
    site.routes[name := kind.replace(' ', '%20')] = FOUL[kind]
    with pytest.raises(ConnectionError) as caught: fetch(File('x.bin', (site.url + name,), len(BODY), 'ab'*32), tmp_path, timeout=.5, attempts=1, pause=0)
    text = str(caught.value)
    assert site.url + name in text and f'by hand to {tmp_path/"x.bin"}' in text and '\n' not in text and len(text) < 800
    part = tmp_path/'x.bin.part'; assert ('is too slow' in text) == (kind == 'a drip')
    assert not (tmp_path/'x.bin').exists() and (not part.exists() or part.stat().st_size <= len(BODY))


def test_a_file_of_unknown_size_has_a_bound(site, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, 'MOST', 300_000); site.routes['endless'] = endless; written = []
    class Counted:
        def __init__(self, f): self.f = f
        def write(self, b): written.append(len(b)); return self.f.write(b)
        def __enter__(self): return self
        def __exit__(self, *a): self.f.close()
    monkeypatch.setattr(engine, 'open', lambda p, how: Counted(open(p, how)), raising=False)
    with pytest.raises(ConnectionError, match='sends more than 300,000 bytes'): fetch(File('x.bin', (site.url + 'endless',)), tmp_path, timeout=2, attempts=1)
    assert not (tmp_path/'x.bin.part').exists() and sum(written) <= 300_000


def versions(site, tags, cut=40_000):
    "A file without a published hash, of which each answer is another version, the first cut off."
    bodies = [BODY, bytes(reversed(BODY))]
    def route(c, r):
        k = min(sum(n == 'v' for n, _ in site.asked) - 1, 1); body, tag = bodies[k], tags[k]
        mark = f'ETag: {tag}\r\n' if tag else ''
        begin = int(r.split('bytes=')[1].split('-')[0]) if 'bytes=' in r and ('If-Range' not in r or f'If-Range: {tag}' in r) else 0
        more = f'Content-Range: bytes {begin}-{len(body) - 1}/{len(body)}\r\n' if begin else ''
        head = f'HTTP/1.1 {206 if begin else 200} OK\r\n{mark}{more}Content-Length: {len(body) - begin}\r\nConnection: close\r\n\r\n'
        c.sendall(head.encode() + (body[begin:] if k or not cut else body[:cut]))
    site.routes['v'] = route; return bodies


@pytest.mark.parametrize('tags', [('"one"', '"two"'), (None, None), ('W/"one"', 'W/"one"'), ('"one"', None)], ids=['another tag', 'no tags', 'weak tags', 'no tag later'])
def test_a_file_that_changed_is_begun_anew(site, tmp_path, tags):
    "Without a hash: the second version whole, never a mixture."
    bodies = versions(site, tags)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore'); got = fetch(File('x.bin', (site.url + 'v',), len(BODY)), tmp_path, timeout=2, pause=0).read_bytes()
    assert got == bodies[1]


def test_a_file_that_is_the_same_is_gone_on_with(site, tmp_path):
    bodies = versions(site, ('"one"', '"one"')); bodies[1] = bodies[0]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore'); got = fetch(File('x.bin', (site.url + 'v',), len(BODY)), tmp_path, timeout=2, pause=0).read_bytes()
    assert got == BODY and 'Range: bytes=32768-' in site.asked[1][1] and 'If-Range: "one"' in site.asked[1][1]
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != '.lock') == ['x.bin']


def test_a_server_that_ignores_if_range(site, tmp_path):
    "206 with another tag: begun anew."
    def route(c, r):
        first = sum(n == 'v' for n, _ in site.asked) == 1
        if first: return c.sendall(b'HTTP/1.1 200 OK\r\nETag: "one"\r\nContent-Length: %d\r\n\r\n' % len(BODY) + BODY[:40_000])
        new = BODY[::-1]
        if 'bytes=' not in r: return c.sendall(b'HTTP/1.1 200 OK\r\nETag: "two"\r\nContent-Length: %d\r\n\r\n' % len(BODY) + new)
        begin = int(r.split('bytes=')[1].split('-')[0])
        c.sendall(f'HTTP/1.1 206 OK\r\nETag: "two"\r\nContent-Range: bytes {begin}-{len(BODY) - 1}/{len(BODY)}\r\nContent-Length: {len(BODY) - begin}\r\n\r\n'.encode() + new[begin:])
    site.routes['v'] = route
    with warnings.catch_warnings():
        warnings.simplefilter('ignore'); got = fetch(File('x.bin', (site.url + 'v',), len(BODY)), tmp_path, timeout=2, pause=0).read_bytes()
    assert got == BODY[::-1]


def test_a_full_disk_is_no_mirrors_fault(site, tmp_path, monkeypatch):
    "One sentence with the path; the next mirror is not asked, what came is kept."
    class Full:
        def __init__(self, f): self.f, self.n = f, 0
        def write(self, b):
            self.n += len(b)
            if self.n > 20_000: raise OSError(errno.ENOSPC, 'No space left on device')
            return self.f.write(b)
        def __enter__(self): return self
        def __exit__(self, *a): self.f.close()
    monkeypatch.setattr(engine, 'open', lambda p, how: Full(open(p, how)), raising=False)
    with pytest.raises(OSError, match='make room') as caught: fetch(File('x.bin', (site.url + 'good',)*2, len(BODY)), tmp_path, timeout=2, pause=0)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path/'x.bin.part') and len(site.asked) == 1 and (tmp_path/'x.bin.part').stat().st_size > 10_000
