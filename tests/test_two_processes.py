"""Two processes on one thing: the checks of tests/faults/check_two_processes.py, in a process of their own, since they fork, and a fork of a process that has
computed with several threads may wait for ever."""
import os
import re
import subprocess
import sys
from pathlib import Path

CHECKS = Path(__file__).resolve().parent/'faults'/'check_two_processes.py'


def test_two_processes_on_one_thing(tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith('PYTEST')}
    done = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-n', '0', '-p', 'no:cacheprovider', '--basetemp', str(tmp_path/'checks'), str(CHECKS)], env=env, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert int(re.search(r'(\d+) passed', done.stdout)[1]) == 16, done.stdout
