"""One thread a process, set before torch is loaded: byte-for-byte comparisons between processes need the same number of threads."""
import os

os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = '1'

import pytest
from hypothesis import settings

settings.register_profile('same', derandomize=True)   # the same cases on every machine; HYPOTHESIS_PROFILE=default draws new ones
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'same'))


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    "Two processes, where pytest-xdist is there and no other number is asked for (`-n 0`: none)."
    o = config.option
    if hasattr(config, 'workerinput') or getattr(o, 'numprocesses', 0) is not None or o.usepdb: return
    o.numprocesses, o.dist, o.maxprocesses = 'auto', 'loadgroup', o.maxprocesses or 2


@pytest.fixture
def writes_a_file(tmp_path):
    "Makes a TorchScript archive whose `__setstate__` writes 16 bytes; returns where, for a path."
    import warnings

    import torch
    from torch import nn
    marker = tmp_path/'written by an archive'

    class Writer(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.there = nn.Parameter(torch.ones(3)), str(marker)
            self.register_buffer('b', torch.zeros(2))

        def forward(self, x): return x

        @torch.jit.export
        def __getstate__(self): return (self.w, self.there, self.training)

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, str, bool]):
            self.b = torch.from_file(state[1], True, 16, dtype=torch.uint8)   # mapped for writing
            self.b.copy_(torch.arange(16, dtype=torch.uint8))
            self.w, self.there, self.training = state[0], state[1], state[2]

    def write(path):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')   # TorchScript is deprecated
            torch.jit.script(Writer()).save(str(path))
        return marker
    return write
