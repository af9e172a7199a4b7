"""Archives that nobody should unpack: a ValueError with the archive's and the member's name, and nothing is written."""
import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from trmml.data.fetch import unpack

WORDS = 'hello '*2000


def zipped(*names, change=None, **how):
    "A zip of small files; `change` gets its bytes and the place of the first central entry."
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', **how) as z:
        for n in names: z.writestr(zipfile.ZipInfo(n), WORDS, how.get('compression'))
    raw = bytearray(out.getvalue())
    if change: change(raw, raw.find(b'PK\1\2'))
    return bytes(raw)


def tar(*members, mode='w', fmt=tarfile.PAX_FORMAT):
    "A tar; a member is (name, type or None, size that it claims or None)."
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=fmt) as t:
        for name, kind, size in members:
            m = tarfile.TarInfo(name); m.type = kind or tarfile.REGTYPE
            if size is None and not kind: m.size = len(WORDS); t.addfile(m, io.BytesIO(WORDS.encode()))
            elif size is None: t.addfile(m)
            else: m.size = size; t.fileobj.write(m.tobuf(fmt)); t.offset += 512
    return out.getvalue()


def at(offset, value, central=None):
    "A change of one field of the local header, and of the central one."
    def change(raw, c):
        raw[offset:offset + len(value)] = value
        if central is not None: raw[c + central:c + central + len(value)] = value
    return change


def crc(raw):
    "The sum at the end of a .tgz, wrong."
    return raw[:-8] + struct.pack('<I', struct.unpack('<I', raw[-8:-4])[0] ^ 1) + raw[-4:]


FOUL = {   # name of the file, bytes, words of the message
    'encrypted': ('a.zip', zipped('ok.txt', change=at(6, b'\1', 8)), "'ok.txt'.*password"), 'unknown method': ('a.zip', zipped('ok.txt', change=at(8, b'\x63', 10)), "'ok.txt'.*method 99"),
    'unknown version': ('a.zip', zipped('ok.txt', change=at(4, b'\x63', 6)), '9.9'), 'file and folder of one name': ('a.zip', zipped('one', 'one/two'), "'one' as a file and as a folder"),
    'folder and file of one name': ('a.zip', zipped('one/two', 'one'), "'one' as a file and as a folder"), 'file and folder in a tar': ('a.tar', tar(('one', None, None), ('one/two', None, None)), "'one' as a file"),
    'a name of 300 letters': ('a.zip', zipped('x'*300), 'a name of 300 bytes'), 'a name of 200 umlauts': ('a.zip', zipped('ü'*200), 'a name of 400 bytes'), '300 letters in a tar': ('a.tar', tar(('y'*300, None, None)), '300 bytes'),
    'an empty name': ('a.zip', zipped(''), "holds ''.*no name"), 'a dot': ('a.zip', zipped('.'), "holds '.'.*no name"), 'a dot in a tar': ('a.tar', tar(('.', None, None)), "'.'.*no name"), 'slashes': ('a.zip', zipped('//'), 'leads out|no name'),
    '2500 folders': ('a.zip', zipped('a/'*2500 + 'b'), '2501 folders deep'), '2500 folders in a tar': ('a.tar', tar(('a/'*2500 + 'b', None, None)), '2501 folders deep'), '1 PB': ('a.tar', tar(('big', None, 10**15), fmt=tarfile.GNU_FORMAT), "'big'.*claims 1,000,000,000,000,000 bytes"),
    'less than nothing': ('a.tar', tar(('neg', None, -5), fmt=tarfile.GNU_FORMAT), 'not a whole archive|claims'), 'wrong sum of a tgz': ('a.tgz', crc(tar(('ok.txt', None, None), mode='w:gz')), 'not a whole archive'), 'wrong sum in a zip': ('a.zip', zipped('ok.txt', change=at(14, b'\1\2\3\4', 16)), "ok.txt"),
    'half a tgz': ('a.tgz', tar(('ok.txt', None, None), mode='w:gz')[:60], 'not a whole archive'), 'half an xz': ('a.xz', tar(('ok.txt', None, None), mode='w:xz')[:90], 'not a whole archive'), 'half a bz2': ('a.bz2', tar(('ok.txt', None, None), mode='w:bz2')[:90], 'not a whole archive'),
    'a pipe': ('a.tar', tar(('p', tarfile.FIFOTYPE, None)), "'p', a device"), 'a link': ('a.tar', tar(('l', tarfile.SYMTYPE, None)), "'l', a link"), 'a web page': ('a.zip', b'<!doctype html>sign in', 'not a whole archive'), 'nothing': ('a.zip', b'', 'not a whole archive'),
    'zeros': ('a.tar', bytes(100), 'not a whole archive'), 'a lying size': ('a.zip', zipped('ok.txt', change=at(22, struct.pack('<I', 2**31), 24), compression=zipfile.ZIP_DEFLATED), "ok.txt|claims"), 'a number that is none': ('a.tar', tar(('ok.txt', None, None)).replace(b'0000644', b'zzzzzzz'), 'not a whole archive')}


@pytest.mark.parametrize('kind', FOUL)
def test_refused_with_both_names(tmp_path, kind):
    name, raw, words = FOUL[kind]; (tmp_path/name).write_bytes(raw)
    with pytest.raises(ValueError, match=f'(?s){name}: .*({words})') as caught: unpack(tmp_path/name, tmp_path/'out')
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 600
    assert list((tmp_path/'out').iterdir()) == [] and sorted(p.name for p in tmp_path.iterdir()) == sorted([name, 'out'])


@pytest.mark.parametrize('there', ['a link to a folder', 'a link in place of the file', 'a broken link', 'a file in place of a folder', 'a folder in place of a file', 'a link for the work'])
@pytest.mark.parametrize('kind', ['a.zip', 'a.tar'])
def test_what_is_in_the_way(tmp_path, there, kind):
    "A link that is there already is not followed; nothing is written beside it."
    raw = zipped('kit/a.txt', 'kit/b.txt') if kind == 'a.zip' else tar(('kit/a.txt', None, None), ('kit/b.txt', None, None))
    (tmp_path/kind).write_bytes(raw); out, far = tmp_path/'out', tmp_path/'far'; out.mkdir(); far.mkdir()
    if there == 'a link to a folder': (out/'kit').symlink_to(far)
    elif there == 'a link in place of the file': (out/'kit').mkdir(); (far/'x').write_text('kept'); (out/'kit'/'b.txt').symlink_to(far/'x')
    elif there == 'a broken link': (out/'kit').symlink_to(far/'none')
    elif there == 'a file in place of a folder': (out/'kit').write_text('kept')
    elif there == 'a folder in place of a file': (out/'kit'/'b.txt').mkdir(parents=True)
    else: (out/f'.unpack-{kind}').symlink_to(far)
    if there == 'a link for the work':
        unpack(tmp_path/kind, out)   # it is removed, not followed
        assert (out/'kit'/'a.txt').read_text() == WORDS and not list(far.iterdir()) and not (out/f'.unpack-{kind}').exists()
        return
    with pytest.raises(ValueError, match=f'{kind}: holds .kit.*nothing was unpacked'): unpack(tmp_path/kind, out)
    assert [p.name for p in far.iterdir()] in ([], ['x']) and not (out/'kit'/'a.txt').exists() and all(p.read_text() == 'kept' for p in far.iterdir())


def test_right_ones_are_unpacked(tmp_path):
    "Folders as members, './' before names, compression of each kind; over what is there."
    for k, raw in enumerate([tar(('./', tarfile.DIRTYPE, None), ('./a', tarfile.DIRTYPE, None), ('./a/b.txt', None, None)), tar(('a/b.txt', None, None), mode='w:gz'), tar(('a/b.txt', None, None), mode='w:xz'), zipped('a/', 'a/b.txt'),
                             zipped('a/b.txt', compression=zipfile.ZIP_BZIP2), zipped('a/b.txt', 'a/c.txt', compression=zipfile.ZIP_LZMA)]):
        (tmp_path/f'{k}.bin').write_bytes(raw); unpack(tmp_path/f'{k}.bin', tmp_path/'out')
        assert (tmp_path/'out'/'a'/'b.txt').read_text() == WORDS
    assert sorted(os.listdir(tmp_path/'out'/'a')) == ['b.txt', 'c.txt']


def test_flips_of_an_archive(tmp_path):
    "A bit anywhere: refused, or unpacked with the bytes that were packed (a .zip and a .tgz have sums)."
    import random
    rng = random.Random(0)
    for name, raw in ('a.zip', zipped('a.txt', 'b.txt', compression=zipfile.ZIP_DEFLATED)), ('a.tgz', tar(('a.txt', None, None), ('b.txt', None, None), mode='w:gz')):
        for k in range(150):
            bad = bytearray(raw); bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8); (tmp_path/name).write_bytes(bad); out = tmp_path/f'{name}{k}'
            try: unpack(tmp_path/name, out)
            except ValueError as error: assert name in str(error) and not list(out.iterdir()); continue
            assert all(p.read_text() == WORDS for p in out.rglob('*') if p.is_file())
