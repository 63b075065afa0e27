"""By how much RandAugment changes images, as the papers' authors have it and as torchvision has it:

    python tests/measure/randaugment.py FOLDER [DRAWS]

Mean absolute change of a value of 0 to 255, over all images below the folder and so many draws of each (100).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from vldistill.data.transforms import ImageTransform

folder, draws = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100
images = [Image.open(path).convert("RGB") for path in sorted(folder.rglob("*.jpg"))]
for augment in ("randaugment", "torchvision"):
    transform, changes = ImageTransform(384, 32, augment=augment), []
    for image in images:
        before = np.asarray(image).astype(np.int16)
        for draw in range(draws):
            changes.append(np.abs(np.asarray(transform.before_resize(image, (0, draw, 0, 0))) - before).mean())
    print(f"{augment}: {np.mean(changes):.1f} over {len(images)} images x {draws} draws")
