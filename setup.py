"""Everything is read from settings.ini; see there."""
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_namespace_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(here/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']
suffix = '_requirements'
extras = {k.removesuffix(suffix): v.split() for k, v in cfg.items() if k.endswith(suffix)}
extras['dev'] = extras['notebooks'] + extras['dev']


def absolute(text):
    "README's links for a page that lies elsewhere: pictures raw, all else as the forge shows it."
    at = {'!': f"{cfg['git_url']}/raw/{cfg['branch']}/", '': f"{cfg['git_url']}/blob/{cfg['branch']}/"}
    link = re.compile(r'(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\((?!\w+:|#)([^)\s]+)')
    return link.sub(lambda m: f'{m[1]}[{absolute(m[2])}]({at[m[1]]}{m[3]}', text)


setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=absolute((here/'README.md').read_text(encoding='utf-8')),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    license_expression=cfg['license_expression'],
    license_files=['LICENSE'],
    classifiers=['Development Status :: 3 - Alpha',
                 f"Intended Audience :: {cfg['audience']}",
                 'Operating System :: POSIX :: Linux',
                 *(f'Programming Language :: Python :: {v}' for v in ('3', *cfg['python_versions'].split())),
                 *(f'Topic :: {t}' for t in cfg['topics'].splitlines())],
    keywords=cfg['keywords'],
    packages=find_namespace_packages(include=['trmml', 'trmml.*']),
    package_data={'trmml': ['py.typed'], 'trmml.weights': ['*'], 'trmml.runs': ['recipes.toml']},
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    python_requires='>=' + cfg['min_python'],
    entry_points={'console_scripts': cfg['console_scripts'].split(),
                  'nbdev': [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
)
