"""One thread a process, set before torch is loaded: byte-for-byte comparisons between processes need the same number of threads."""
import os

os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = '1'
