"""What `torch.hub.load(folder, "digit_net", source="local")` finds here: a small network that reads handwritten digits.

`train_digits.py` beside this file makes its weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

dependencies = ["torch"]
"""torch.hub looks at this before it calls an entry."""

WEIGHTS = Path(__file__).resolve().parent / "digit_net.pt"


def digit_net(pretrained: bool = True) -> nn.Sequential:
    """A convolutional network over images of 8 x 8 pixels, some 17,000 weights, ready to be asked.

    It takes floats of shape (images, 1, 8, 8), 0 for paper and 1 for ink, and returns scores of shape (images, 10):
    the digit is the index of the largest.

    Arguments:
        pretrained: load the weights beside this file; else they are random, as the generator's state has it.
    """
    network = nn.Sequential(
        nn.Upsample(scale_factor=3, mode="bilinear"),  # more work for the same weights, as in larger models
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * 3 * 3, 10),
    )
    if pretrained:
        # Nothing but tensors is unpickled: a file of weights is data, not code.
        network.load_state_dict(torch.load(WEIGHTS, map_location="cpu", weights_only=True))
    return network.eval()
