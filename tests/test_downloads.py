"""Downloads against a server on this machine that hangs up, lies, is slow, or has nothing: the right file or one clear error, never half a file."""
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

import trmml.data
from trmml.data import downloads, fetch as engine
from trmml.data.downloads import download
from trmml.data.fetch import File, fetch, unpack

BODY = bytes(os.urandom(1 << 16))*40             # 2.6 MB, more than two blocks


class Site:
    "What the server has, how it misbehaves, and what it was asked."
    def __init__(self): self.files, self.how, self.asked = {}, {}, []


def handler(site):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'
        def log_message(self, *args): pass

        def do_GET(self):
            name, how = self.path.lstrip('/').split('?')[0], site.how.get(self.path.lstrip('/').split('?')[0], {})
            site.asked.append((name, self.headers.get('Range')))
            n = sum(a[0] == name for a in site.asked)
            status = how.get('status') if n <= how.get('times', 10**9) else None
            if status or name not in site.files: return self.answer(status or 404, b'no')
            body, start = site.files[name], 0
            if self.headers.get('Range') and not how.get('no_ranges'):
                start = int(self.headers['Range'].removeprefix('bytes=').split('-')[0])
                if start >= len(body): return self.answer(416, b'')
            self.send_response(206 if start else 200)
            if start: self.send_header('Content-Range', f'bytes {how.get("shift", 0) + start}-{len(body) - 1}/{len(body)}')
            if not how.get('no_length'): self.send_header('Content-Length', str(len(body) - start))
            else: self.send_header('Connection', 'close')
            self.end_headers()
            end = start + how['cut'] if 'cut' in how else len(body)
            for k in range(start, min(end, len(body)), 1 << 18):
                self.wfile.write(body[k:min(k + (1 << 18), end)])
                time.sleep(how.get('slow', 0))
            self.wfile.flush()
            if end < len(body) or how.get('no_length'): self.close_connection = True; self.connection.close() if end < len(body) else None

        def answer(self, status, body):
            self.send_response(status)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def handle_one_request(self):
            try: super().handle_one_request()
            except (ConnectionError, ValueError, OSError): self.close_connection = True
    return Handler


@pytest.fixture
def site():
    site = Site()
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler(site))
    server.daemon_threads = True
    server.handle_error = lambda *args: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site.url = f'http://127.0.0.1:{server.server_address[1]}/'
    yield site
    server.shutdown()
    server.server_close()


def file(site, name='a.bin', body=BODY, mirrors=None, **more):
    site.files.setdefault(name, body)
    return File(name, tuple(site.url + m for m in mirrors or (name,)), len(body), hashlib.sha256(body).hexdigest(), **more)


def get(f, tmp_path, **how): return fetch(f, tmp_path, **dict(dict(pause=0, timeout=5), **how))


def left(folder): return sorted(p.name for p in folder.iterdir() if not p.name.endswith('.lock'))


def test_a_plain_download(site, tmp_path):
    assert get(file(site), tmp_path).read_bytes() == BODY and left(tmp_path) == ['a.bin'] and site.asked == [('a.bin', None)]
    get(file(site), tmp_path)
    assert len(site.asked) == 1                                                   # it is there: nothing is asked


def test_a_connection_that_breaks_is_gone_on_with(site, tmp_path):
    f = file(site)
    site.how['a.bin'] = dict(cut=1_000_000)
    assert get(f, tmp_path).read_bytes() == BODY
    assert [r for _, r in site.asked] == [None, 'bytes=999424-', 'bytes=1998848-']       # whole blocks of what came before it broke


def test_a_download_that_gave_up_is_gone_on_with_later(site, tmp_path):
    f = file(site)
    site.how['a.bin'] = dict(cut=600_000)
    with pytest.raises(ConnectionError, match='broke .* after 1,196,032 bytes .2 times.* kept and gone on with next time'): get(f, tmp_path, attempts=2)
    assert left(tmp_path) == ['a.bin.part']
    site.how.clear()
    assert get(f, tmp_path).read_bytes() == BODY and site.asked[-1] == ('a.bin', 'bytes=1196032-') and left(tmp_path) == ['a.bin']


def test_a_process_that_is_killed_leaves_a_part_to_go_on_with(site, tmp_path):
    f = file(site)
    site.how['a.bin'] = dict(slow=.2)
    code = f'from trmml.data.fetch import File, fetch\nfetch(File({f.name!r}, {f.urls!r}, {f.size}, {f.sha256!r}), {str(tmp_path)!r})'
    child = subprocess.Popen([sys.executable, '-c', code])
    part, end = tmp_path/'a.bin.part', time.time() + 60
    while not (part.exists() and part.stat().st_size) and time.time() < end: time.sleep(.05)
    child.kill(); child.wait()
    assert left(tmp_path) == ['a.bin.part'] and 0 < part.stat().st_size < len(BODY)
    site.how.clear()
    assert get(f, tmp_path).read_bytes() == BODY and site.asked[-1][1].startswith('bytes=')


def test_a_server_without_ranges_begins_anew(site, tmp_path):
    f = file(site)
    (tmp_path/'a.bin.part').write_bytes(BODY[:1000])
    site.how['a.bin'] = dict(no_ranges=True)
    assert get(f, tmp_path).read_bytes() == BODY


def test_a_server_that_does_not_say_how_much_comes(site, tmp_path):
    f = file(site)
    site.how['a.bin'] = dict(no_length=True)
    assert get(f, tmp_path).read_bytes() == BODY


def test_a_rest_that_begins_elsewhere_is_not_taken(site, tmp_path):
    f = file(site)
    (tmp_path/'a.bin.part').write_bytes(BODY[:1000])
    site.how['a.bin'] = dict(shift=5)
    with pytest.raises(ConnectionError, match='asked for byte 1000, got byte 1005'): get(f, tmp_path)
    assert left(tmp_path) == ['a.bin.part']


def test_a_part_longer_than_the_file(site, tmp_path):
    f = File('a.bin', file(site).urls, None, file(site).sha256)
    (tmp_path/'a.bin.part').write_bytes(BODY + b'more')
    assert get(f, tmp_path).read_bytes() == BODY
    (tmp_path/'a.bin').unlink()
    (tmp_path/'a.bin.part').write_bytes(BODY + b'more')
    assert get(file(site), tmp_path).read_bytes() == BODY


def test_a_wrong_part_is_found_out_and_fetched_anew(site, tmp_path):
    (tmp_path/'a.bin.part').write_bytes(b'x'*1000)
    assert get(file(site), tmp_path).read_bytes() == BODY and [r for _, r in site.asked] == ['bytes=1000-', None]


@pytest.mark.parametrize('wrong, words', [(BODY[:-1] + bytes([BODY[-1] ^ 1]), 'wrong bytes'), (BODY + b'1', 'expected 2,621,440'), (BODY[:-9], 'expected 2,621,440'),
                                          (b'<html>sign in</html>', 'has 20 bytes, expected')], ids=['one bit', 'longer', 'shorter', 'a page'])
def test_wrong_bytes_never_get_the_name(site, tmp_path, wrong, words):
    f = file(site)
    site.files['a.bin'] = wrong
    with pytest.raises(ConnectionError, match=words): get(f, tmp_path, attempts=2)
    assert left(tmp_path) == []


def test_a_wrong_mirror_is_passed_over(site, tmp_path):
    f = file(site, mirrors=('gone.bin', 'wrong.bin', 'busy.bin', 'a.bin'))
    site.files['wrong.bin'] = BODY[::-1]
    site.how['busy.bin'] = dict(status=503)
    assert get(f, tmp_path, attempts=2).read_bytes() == BODY and left(tmp_path) == ['a.bin']
    assert [a for a, _ in site.asked] == ['gone.bin', 'wrong.bin', 'wrong.bin', 'busy.bin', 'busy.bin', 'a.bin']


@pytest.mark.parametrize('status, asked, words', [(404, 1, 'status 404'), (403, 1, 'without a login or a licence'), (503, 3, 'status 503 (3 times)'), (500, 3, 'status 500'), (429, 3, 'status 429')])
def test_statuses(site, tmp_path, status, asked, words):
    site.how['a.bin'] = dict(status=status)
    with pytest.raises(ConnectionError) as caught: get(file(site), tmp_path, attempts=3)
    assert words in str(caught.value) and site.url + 'a.bin' in str(caught.value) and f'by hand to {tmp_path/"a.bin"}' in str(caught.value)
    assert '\n' not in str(caught.value) and len(site.asked) == asked and left(tmp_path) == []


def test_a_server_that_is_busy_for_a_while(site, tmp_path):
    site.how['a.bin'] = dict(status=503, times=2)
    start = time.time()
    assert get(file(site), tmp_path, attempts=4, pause=.05).read_bytes() == BODY
    assert len(site.asked) == 3 and time.time() - start >= .05 + .1               # longer each time


def test_a_server_that_falls_silent(site, tmp_path):
    site.how['a.bin'] = dict(slow=3)
    start = time.time()
    with pytest.raises(ConnectionError, match='kept and gone on with'): get(file(site), tmp_path, timeout=.3, attempts=1)
    assert time.time() - start < 3 and left(tmp_path) in (['a.bin.part'], [])


def test_no_server_at_all(tmp_path):
    with pytest.raises(ConnectionError, match='no connection, or it broke .ConnectionError. after 0 bytes'): get(File('a.bin', ('http://127.0.0.1:9/a.bin',), 5), tmp_path, attempts=2)


def test_two_at_once(site, tmp_path):
    f = file(site)
    site.how['a.bin'] = dict(slow=.05)
    code = f'from trmml.data.fetch import File, fetch\nprint(len(fetch(File({f.name!r}, {f.urls!r}, {f.size}, {f.sha256!r}), {str(tmp_path)!r}).read_bytes()))'
    children = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [c.communicate(timeout=120)[0].strip() for c in children] == [str(len(BODY))]*2
    assert (tmp_path/'a.bin').read_bytes() == BODY and len(site.asked) == 1       # the second waited and found it


def test_no_room(site, tmp_path, monkeypatch):
    monkeypatch.setattr(engine.shutil, 'disk_usage', lambda p: type('U', (), dict(free=10)))
    with pytest.raises(OSError, match='a.bin needs .* make room or choose another root='): get(file(site), tmp_path)
    assert site.asked == [] and left(tmp_path) == []


# ---- archives

def tar(members, mode='w'):
    "Bytes of a tar; a member is (name, bytes), or (name, type, target)."
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as t:
        for name, *what in members:
            m = tarfile.TarInfo(name)
            if len(what) == 1: m.size = len(what[0]); t.addfile(m, io.BytesIO(what[0])); continue
            m.type, m.linkname = what
            t.addfile(m)
    return out.getvalue()


def zipped(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as z:
        for name, content, *link in members:
            info = zipfile.ZipInfo(name)
            if link: info.external_attr = 0o120777 << 16
            z.writestr(info, content)
    return out.getvalue()


EVIL = {'../ in a tar': tar([('ok.txt', b'1'), ('../evil.txt', b'1')]), 'deep ../ in a tar': tar([('a/../../evil.txt', b'1')]),
        'an absolute path': tar([('/evil.txt', b'1')]), 'a symbolic link': tar([('a', tarfile.SYMTYPE, '..'), ('a/evil.txt', b'1')]),
        'a hard link': tar([('a', tarfile.LNKTYPE, '/etc/hosts')]), 'a device': tar([('a', tarfile.CHRTYPE, '')]), 'a pipe': tar([('a', tarfile.FIFOTYPE, '')]),
        '../ in a zip': zipped([('ok.txt', b'1'), ('../evil.txt', b'1')]), 'backslashes in a zip': zipped([('..\\evil.txt', b'1')]),
        'an absolute path in a zip': zipped([('/evil.txt', b'1')]), 'a link in a zip': zipped([('a', b'/etc/hosts', 'link')]),
        'a drive letter': zipped([('C:/evil.txt', b'1')])}


@pytest.mark.parametrize('kind', EVIL)
def test_archives_that_reach_out_are_refused(tmp_path, kind):
    (tmp_path/'x.bin').write_bytes(EVIL[kind])
    with pytest.raises(ValueError, match='x.bin: holds .*(leads out of the folder|only files and folders)') as caught: unpack(tmp_path/'x.bin', tmp_path/'out')
    assert '\n' not in str(caught.value) and list((tmp_path/'out').iterdir()) == [] and sorted(p.name for p in tmp_path.iterdir()) == ['out', 'x.bin']


@pytest.mark.parametrize('name, whole', [('x.tar', tar([('a.txt', b'1'*50_000), ('b.txt', b'2'*50_000)])), ('x.tgz', tar([('a.txt', os.urandom(50_000))], 'w:gz')),
                                         ('x.zip', zipped([('a.txt', b'1'*50_000)]))])
def test_half_an_archive_unpacks_nothing(tmp_path, name, whole):
    (tmp_path/name).write_bytes(whole)
    unpack(tmp_path/name, tmp_path/'good')
    assert (tmp_path/'good'/'a.txt').stat().st_size == 50_000
    (tmp_path/name).write_bytes(whole[:len(whole)//2])
    with pytest.raises(ValueError, match=f'{name}: not a whole archive .* download it again'): unpack(tmp_path/name, tmp_path/'out')
    assert list((tmp_path/'out').iterdir()) == []


def picture(size=(30, 20)):
    out = io.BytesIO()
    Image.new('RGB', size).save(out, 'JPEG')
    return out.getvalue()


def voc_tars():
    "The two archives of VOC 2007, with three photos."
    xml = '<annotation><size><width>30</width><height>20</height></size><object><name>{}</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>'
    def one(listed, photos):
        base = 'VOCdevkit/VOC2007/'
        return tar([(f'{base}ImageSets/Main/{listed}.txt', ''.join(f'{n}\n' for n in photos).encode())] + [(f'{base}Annotations/{n}.xml', xml.format(c).encode()) for n, c in photos.items()] +
                   [(f'{base}JPEGImages/{n}.jpg', picture()) for n in photos])
    return {'VOCtrainval_06-Nov-2007.tar': one('trainval', {'000001': 'cat', '000002': 'dog'}), 'VOCtest_06-Nov-2007.tar': one('test', {'000003': 'cat'})}


def catalogue(site, name, bodies):
    "The catalogue's own files, with the addresses of this server and the sizes and hashes of small archives of the same layout."
    from dataclasses import replace
    site.files.update(bodies)
    return [replace(f, urls=(site.url + f.name,), size=len(bodies[f.name]), sha256=hashlib.sha256(bodies[f.name]).hexdigest()) for f in downloads.FILES[name] if f.name in bodies]


def test_voc2007_from_archive_to_labels(site, tmp_path):
    files = catalogue(site, 'voc2007', voc_tars())
    for name in site.files: site.how[name] = dict(cut=9_000)                      # every connection breaks
    assert download('voc', tmp_path, progress=False, files=files, pause=0, attempts=30) == tmp_path
    assert [len(trmml.data.load('voc', s, tmp_path)) for s in ('train', 'test')] == [2, 1]
    assert sorted(p.suffix for p in (tmp_path/'downloads').iterdir() if p.suffix != '.lock') == ['.done', '.done']
    asked = len(site.asked)
    trmml.data.download('voc', tmp_path, progress=False, files=files)
    assert len(site.asked) == asked                                               # nothing is fetched again


def test_coco2014_layout(site, tmp_path):
    import json
    doc = dict(images=[dict(id=9, file_name='COCO_x.jpg')], annotations=[dict(id=1, image_id=9, category_id=1, bbox=[0, 0, 5, 5])], categories=[dict(id=1, name='person')])
    bodies = {'annotations_trainval2014.zip': zipped([(f'annotations/instances_{s}2014.json', json.dumps(doc)) for s in ('train', 'val')]),
              **{f'{s}2014.zip': zipped([(f'{s}2014/COCO_x.jpg', picture())]) for s in ('train', 'val')}}
    download('coco', tmp_path, progress=False, files=catalogue(site, 'coco2014', bodies))
    assert [len(trmml.data.load('coco', s, tmp_path)) for s in ('train', 'test')] == [1, 1]


def test_unpacking_that_was_interrupted_is_done_again(site, tmp_path, monkeypatch):
    files = catalogue(site, 'voc2007', voc_tars())
    def broken(source, target): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(engine, '_merge', broken)
        with pytest.raises(KeyboardInterrupt): download('voc', tmp_path, progress=False, files=files)
    assert not (tmp_path/'VOCdevkit').exists() and not list((tmp_path/'downloads').glob('*.done'))
    download('voc', tmp_path, progress=False, files=files)
    assert len(trmml.data.load('voc', root=tmp_path)) == 2 and sum(a[0].startswith('VOCtrainval') for a in site.asked) == 1


def test_an_archive_of_something_else(site, tmp_path):
    f = file(site, 'kit.tar', tar([('other.txt', b'1')]), contents='VOCdevkit/VOC2007')
    with pytest.raises(ValueError, match='there is no VOCdevkit/VOC2007 in it; is it the right archive'): download('voc2007', tmp_path, progress=False, files=[f])
    assert not list((tmp_path/'downloads').glob('*.done'))


def test_lists_are_kept_as_files(site, tmp_path):
    f = file(site, 'coco_train_full.txt', b'a.jpg,1\n', folder='labels/splc', unpack=False)
    download('splc', tmp_path, progress=False, files=[f])
    assert (tmp_path/'labels'/'splc'/'coco_train_full.txt').read_bytes() == b'a.jpg,1\n'


def test_a_list_known_by_gits_name_for_it(site, tmp_path):
    site.files['a.txt'] = b'hello\n'
    f = lambda blob: File('a.txt', (site.url + 'a.txt',), blob=blob)
    with pytest.raises(ConnectionError, match='is not the published file'): get(f('0'*40), tmp_path, attempts=1)
    assert left(tmp_path) == [] and get(f('ce013625030ba8dba906f756967f9e9ca394464a'), tmp_path).read_bytes() == b'hello\n'      # git hash-object


def test_what_could_not_be_compared_is_said(site, tmp_path):
    site.files['a.txt'] = b'hello\n'
    with pytest.warns(UserWarning, match='a.txt: no hash was published for it, only its size was compared'): get(File('a.txt', (site.url + 'a.txt',), 6), tmp_path)


def test_the_catalogue():
    sizes = {f.name: f.size for files in downloads.FILES.values() for f in files if f.size}
    assert sizes['train2014.zip'] == 13510573713 and sizes['val2014.zip'] == 6645013297 and sizes['VOCtest_06-Nov-2007.tar'] == 451020800
    assert sizes['CUB_200_2011.tgz'] == 1150585339 and sizes['images.zip'] == 9731705982
    for name in ('voc2007', 'voc2012', 'coco2014', 'cub200'): assert all(f.size and len(f.sha256) == 64 and f.contents for f in downloads.FILES[name])
    assert len(downloads.FILES['voc2007'][0].urls) == 3 and all('/'.join(f.urls[0].split('/')[:3]) == 'https://raw.githubusercontent.com' for f in downloads.FILES['scpnet'])


def test_where_a_licence_stands_in_the_way():
    with pytest.raises(PermissionError) as caught: trmml.data.download('nus')
    assert 'given on request only' in str(caught.value) and 'NUS-WIDE.html' in str(caught.value) and 'nuswide/Flickr/' in str(caught.value)


def test_unknown_names_and_doodles(tmp_path):
    with pytest.raises(ValueError, match="nothing is known of 'imagenet': there are voc2007"): download('imagenet', tmp_path)
    assert download('doodles', tmp_path) == tmp_path


def test_clip_weights_come_through_open_clip(monkeypatch):
    import open_clip
    asked = []
    monkeypatch.setattr(open_clip.pretrained, 'download_pretrained', lambda cfg: asked.append(cfg['url']) or '/x/RN101.pt')
    assert download('RN101') == Path('/x/RN101.pt') and 'RN101' in asked[0]
    def fails(cfg): raise OSError('no network')
    monkeypatch.setattr(open_clip.pretrained, 'download_pretrained', fails)
    monkeypatch.setattr(trmml.clip.weights, 'answers', lambda url: True)
    with pytest.raises(ConnectionError, match="weights 'openai' of RN50 .*OSError: no network.* path of a local copy"): download('RN50')
    monkeypatch.setattr(trmml.clip.weights, 'answers', lambda url: False)
    with pytest.raises(ConnectionError, match="weights 'openai' of RN50 .*does not answer.* path of a local copy"): download('RN50')
