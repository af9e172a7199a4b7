"""Remove what sliders leave in stored notebooks, which nbdev_clean keeps: python .ci/widgets.py [notebook ...]"""
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VIEW = 'application/vnd.jupyter.widget-view+json'


def cleaned(nb):
    "A notebook without widget state and without outputs that need it."
    cells = [c | dict(outputs=[o for o in c['outputs'] if VIEW not in o.get('data', {})]) if 'outputs' in c else c for c in nb['cells']]
    return nb | dict(cells=cells, metadata={k: v for k, v in nb['metadata'].items() if k != 'widgets'})


def main(paths):
    for path in map(Path, paths):
        nb = json.loads(path.read_text(encoding='utf-8'))
        if (new := cleaned(nb)) != nb: path.write_text(json.dumps(new, indent=1, ensure_ascii=False, sort_keys=True) + '\n', encoding='utf-8')


if __name__ == '__main__': main(sys.argv[1:] or sorted((ROOT/'nbs').glob('**/[!_.]*.ipynb')))
