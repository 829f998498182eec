"""Import torchvision's CUDA wheel beside a CPU build of torch.

    from .torchvision_remedy import torchvision

The wheel's compiled part cannot be loaded there, and torchvision stops at the first operator that
it expects from it. Declaring the two operators that the import needs is enough for everything that
is pure Python. Where torchvision is whole, nothing is done.
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
