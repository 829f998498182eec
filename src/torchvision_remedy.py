"""Lets torchvision's CUDA wheel be imported beside a CPU build of torch: `from src.torchvision_remedy import torchvision`.

The wheel's compiled part then cannot be loaded, and torchvision stops at the first operator it expects from there.
Declaring the two operators that its import needs lets all that is pure Python work; where torchvision is whole, its own
declarations are found and nothing is done.
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
