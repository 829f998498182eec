"""Import torchvision even where its wheel is for CUDA and torch is a CPU build.

    from .torchvision_remedy import torchvision

There torchvision cannot load its compiled part, and its import stops at the first operator that is
missing. This file declares the two operators that the import needs. Then all of torchvision that is
pure Python works. A complete torchvision is imported unchanged.
"""

from __future__ import annotations

import sys

import torch

SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    for name, schema in SCHEMAS.items():
        torch.library.define(name, schema)
    import torchvision  # noqa: F401
