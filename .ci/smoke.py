"""What somebody does with the installed package, in an empty folder: python smoke.py"""
import subprocess
import sys
from pathlib import Path

import trmml
from trmml import TRMML
from trmml.doodles import compose, draw, recognisable, VOC_KINDS

here = Path.cwd()
assert here not in Path(trmml.__file__).parents and 'site-packages' in trmml.__file__, trmml.__file__
assert 'TRMML' in dir(trmml) and trmml.TRMML is TRMML
assert (Path(trmml.__file__).parent/'py.typed').exists() and (Path(trmml.__file__).parent/'runs'/'recipes.toml').exists()


def console(*args):
    print('$ trmml', *args, flush=True)
    subprocess.run([Path(sys.executable).with_name('trmml'), *map(str, args)], check=True, cwd=here)


photos = here/'photos'
photos.mkdir()
rows = ['photo,person,car']
for seed in range(60):
    scene = compose(seed)
    image, ids, visible = draw(scene)
    image.save(photos/f'{seed:02d}.png')
    there = {VOC_KINDS[c] for c, _ in recognisable(scene, ids, visible)}
    rows.append(f'{seed:02d}.png,' + ','.join('1' if k in there else '0' if seed % 3 else '' for k in ('person', 'car')))
(here/'labels.csv').write_text('\n'.join(rows) + '\n')
console('--version')
console('info')
console('fit', photos, 'labels.csv', '--backbone', 'doodle-clip', '--epochs', 2, '--out', 'model', '--quiet')
console('predict', 'model', photos, '--out', 'predictions.csv', '--quiet')
assert len((here/'predictions.csv').read_text().splitlines()) == 61
print('photos predicted from Python:', len(TRMML.load('model', progress=False).predict(photos)))
