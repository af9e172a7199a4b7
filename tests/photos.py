"""Where tests find photographs: 128 of COCO beside the repository (../shared/data/coco128), else a dozen in tests/data/photos, in the same layout."""
from pathlib import Path

COCO128 = Path(__file__).resolve().parents[2]/'shared'/'data'/'coco128'
DOZEN = Path(__file__).resolve().parent/'data'/'photos'
PHOTOS = COCO128 if COCO128.is_dir() else DOZEN
