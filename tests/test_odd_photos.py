"""Every file of ../shared/cases/photos right, or one sentence with the right reason; and odd pictures that are made here."""
import os
import shutil
import socket
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trmml.data import image_names, open_image
from trmml.photos import list_photos

PHOTOS = Path(__file__).parents[2]/'shared'/'cases'/'photos'
here = pytest.mark.skipif(not PHOTOS.is_dir(), reason='needs ../shared/cases/photos')
GREY = 'grey'
RIGHT = {'plain.jpg': 0, 'UPPER.JPG': 0, 'name with spaces #1.jpg': 0, 'Fünf Äpfel 写真.jpg': 0, 'photo.jfif': 0, 'png-named.jpg': 0, 'rgba.png': 0,
         'exif6.jpg': 1.44, 'cmyk.jpg': .65, 'palette.png': 3.62, 'grey.png': GREY, 'grey16.png': GREY, 'grey16.tif': GREY,
         'animated.gif': 4.42, 'animated.webp': 3.00, 'photo.avif': 2.05, 'photo.heic': 1.40}
WRONG = {'truncated.jpg': 'it is damaged', 'cut-end.jpg': 'it is damaged', 'zero.jpg': 'it is empty', 'page.jpg': 'it is a web page'}


def pixels(path, side=None): return np.asarray(open_image(path, side), float)


@here
def test_a_folder_names_all():
    assert set(list_photos(PHOTOS)[0]) == set(RIGHT) | set(WRONG)


@here
@pytest.mark.parametrize('name', RIGHT)
def test_right(name):
    if name == 'photo.heic': pytest.importorskip('pillow_heif')
    found, want = pixels(PHOTOS/name), pixels(PHOTOS/'plain.jpg')
    assert found.shape == (160, 240, 3)
    if RIGHT[name] == GREY: assert np.array_equal(found, pixels(PHOTOS/'grey.png')) and (found == found[..., :1]).all() and found.max() < 255
    else: assert round(abs(found - want).mean(), 2) == pytest.approx(RIGHT[name], abs=.02)


@here
@pytest.mark.parametrize('name', WRONG)
def test_wrong(name):
    with pytest.raises(ValueError, match=f'{name}: cannot be read as an image .*{WRONG[name]}') as error: open_image(PHOTOS/name)
    assert '\n' not in str(error.value)


@here
def test_heic_without_its_package(monkeypatch, tmp_path):
    "Named with format and package; not left out of the folder."
    from trmml.data import images
    monkeypatch.setattr(images, '_knows_heif', lambda path: False)
    shutil.copy(PHOTOS/'photo.heic', tmp_path/'a.heic')
    monkeypatch.delitem(Image.OPEN, 'HEIF', raising=False)
    monkeypatch.setattr(Image, 'ID', [i for i in Image.ID if i != 'HEIF'])
    with pytest.raises(ValueError, match='it is HEIC; run pip install pillow-heif') as error: open_image(tmp_path/'a.heic')
    assert 'download it again' not in str(error.value) and list_photos(tmp_path)[0] == ['a.heic']


@pytest.mark.parametrize('head, what', [
    (b'\0\0\0\x18ftypisom', 'it is a film; make frames of it, "mkdir frames" and "ffmpeg -i x.jpg -vf fps=1'), (b'RIFF\0\0\0\0AVI LIST', 'it is a film'),
    (b'%PDF-1.7', 'it is a PDF'), (b'PK\x03\x04', 'it is a zip archive'), (b'<svg xmlns="a">', 'it is SVG'), (b'\xff\x0a\0\0', 'it is JPEG XL'),
    (b'\0\0\0\x18ftypcrx ', 'it is the raw file of a camera'), (b'hello', 'it is no picture that Pillow knows'), (b'<html>', 'it is a web page')])
def test_what_it_is(tmp_path, head, what):
    (tmp_path/'x.jpg').write_bytes(head + b'\0'*40)
    with pytest.raises(ValueError) as error: open_image(tmp_path/'x.jpg')
    assert what in str(error.value)


def test_sub_folders_in_natural_order(tmp_path):
    for name in ('top.jpg', 'film/2.png', 'film/10.png', 'film/1.png', 'film/.secret.png', '.git/x.png', 'b/c/d.HEIC', 'notes.txt'):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True); (tmp_path/name).touch()
    names, paths = list_photos(tmp_path)
    assert names == ['b/c/d.HEIC', 'film/1.png', 'film/2.png', 'film/10.png', 'top.jpg'] == image_names(tmp_path)
    assert all(Path(p).is_file() and os.path.isabs(p) for p in paths)


def test_a_phone_s_108_megapixels_are_no_attack(tmp_path):
    "Read without a warning; at reduced size in a fraction of the memory."
    Image.new('L', (12_000, 9_000), 90).save(tmp_path/'a.jpg', quality=30)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        small = open_image(tmp_path/'a.jpg', 224)
    assert small.size == (562, 421) or min(small.size) >= 448 and max(small.size) < 3000
    assert Image.MAX_IMAGE_PIXELS is not None   # Pillow's limit is as it was


def test_too_many_pixels(tmp_path):
    "PNG of 200 million: refused with the reason; a JPEG of that size is read smaller."
    Image.new('1', (20_000, 10_000)).save(tmp_path/'a.png'); Image.new('L', (20_000, 10_000), 9).save(tmp_path/'a.jpg', quality=10)
    with pytest.raises(ValueError, match='it has 20,000 x 10,000 pixels, more than 179 million; save it smaller'): open_image(tmp_path/'a.png')
    assert open_image(tmp_path/'a.jpg').size == (2500, 1250)


@pytest.mark.parametrize('kind', ['jpg', 'png', 'webp'])
def test_reduced_size_is_nearly_the_same(tmp_path, kind):
    rng = np.random.RandomState(0); exif = Image.Exif(); exif[274] = 6
    img = Image.fromarray(rng.randint(0, 256, (75, 100, 3), np.uint8)).resize((2000, 1500), 3)
    img.save(tmp_path/f'a.{kind}', exif=exif)
    whole, small = open_image(tmp_path/f'a.{kind}'), open_image(tmp_path/f'a.{kind}', 256)
    assert whole.size == (1500, 2000) and small.height == small.width*4//3 and 512 <= small.width < 1500
    a, b = (np.asarray(v.resize((256, 256), 3), float) for v in (whole, small))
    assert abs(a - b).mean() < 1.5
    assert open_image(tmp_path/f'a.{kind}', 800).size == whole.size   # not twice as large: all pixels


def test_fit_names_what_it_has(tmp_path, monkeypatch):
    "An unreadable photo: fit has no skip_unreadable, so it is not advised."
    import pandas as pd
    from trmml import TRMML
    monkeypatch.setenv('TRMML_FEATURES', str(tmp_path/'features')); (tmp_path/'p').mkdir()
    for i in range(12): Image.new('RGB', (64, 64), (i*20, 0, 0)).save(tmp_path/'p'/f'{i}.png')
    (tmp_path/'p'/'3.png').write_bytes(b'')
    table = pd.DataFrame({'red': [0, 1]*6, 'dark': [1, 0]*6}, index=[f'{i}.png' for i in range(12)])
    with pytest.raises(ValueError, match='(?s)1 of 12 images cannot be read.*3.png.*it is empty.*take their rows out of the table') as error:
        TRMML(backbone='doodle-clip', epochs=1, progress=False).fit(tmp_path/'p', table)
    assert 'skip_unreadable' not in str(error.value)


def test_weights_without_a_network(monkeypatch):
    "One message within seconds, also where a server accepts and says nothing."
    from huggingface_hub import constants
    from trmml.clip import backbones, weights
    with socket.create_server(('127.0.0.1', 0)) as silent:
        monkeypatch.setattr(constants, 'ENDPOINT', f'http://127.0.0.1:{silent.getsockname()[1]}')
        monkeypatch.setattr(weights, 'PATIENCE', 1.); monkeypatch.setattr(weights.answers, '__defaults__', (1.,))
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', '/nowhere'); monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
        start = time.perf_counter()
        with pytest.raises(ConnectionError) as error: backbones.load('RN50')
    assert time.perf_counter() - start < 20 and constants.HF_HUB_OFFLINE is False
    for words in ('--weights FILE', 'trmml download RN50', 'doodle-clip', 'does not answer'): assert words in str(error.value)
    assert '\n' not in str(error.value)


def test_torchscript_of_open_clip(tmp_path):
    "Its constant buffer, the mask of the text encoder, is no reason to refuse it."
    import open_clip, torch
    from trmml.clip import weights
    model = open_clip.CLIP(**__import__('trmml.clip', fromlist=['x']).settings_of('doodle-clip')); state = model.state_dict()
    mask = dict(model.named_buffers())['attn_mask']
    weights.check_fit(model, state | {'attn_mask': mask}, 'doodle-clip', 'x.pt')
    with pytest.raises(ValueError, match='it has other'): weights.check_fit(model, state | {'other': mask}, 'doodle-clip', 'x.pt')
