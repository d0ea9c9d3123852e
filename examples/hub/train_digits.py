"""Train the network of `hubconf.py` on the training part of scikit-learn's digits, and write its weights.

    python examples/hub/train_digits.py

It takes half a minute. With the same seed, machine and version of PyTorch, the weights are the same each time. The
held-out part is not used for training. The program prints the accuracy on both parts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the module digit_images

import numpy as np
import torch
from digit_images import held_out_digits, training_digits
from hubconf import WEIGHTS, digit_net
from numpy.typing import NDArray
from torch import nn

EPOCHS = 40
BATCH_SIZE = 64
HIGHEST_RATE = 6e-3
MIN_ACCURACY = 0.95


def as_inputs(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Convert pixels of shape (images, 8, 8) to the input of the network."""
    return torch.from_numpy(pixels).unsqueeze(1) / 255


def shifted(inputs: torch.Tensor) -> torch.Tensor:
    """Shift the images by at most one pixel in each direction, as another writer might have placed the digits."""
    down, right = torch.randint(3, (2,)).tolist()
    return nn.functional.pad(inputs, (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]


def train(network: nn.Sequential, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    """Train for `EPOCHS` passes over the images in random order. Every second pass uses shifted images."""
    steps = EPOCHS * -(-len(inputs) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=HIGHEST_RATE, total_steps=steps)
    network.train()
    for epoch in range(EPOCHS):
        for chosen in torch.randperm(len(inputs)).split(BATCH_SIZE):
            batch = shifted(inputs[chosen]) if epoch % 2 else inputs[chosen]
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(batch), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    network.eval()


def accuracy(network: nn.Sequential, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of the images, from 0 to 1, for which the network's digit is the label."""
    with torch.inference_mode():
        return float((network(inputs).argmax(dim=1) == labels).float().mean())


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit code."""
    parser = argparse.ArgumentParser(description="Train the network that examples/pytorch_batcher.py runs.")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="file to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    arguments = parser.parse_args(argv)

    torch.set_num_threads(1)  # with several threads, rounding would depend on how they share the sums
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(arguments.seed)
    network = digit_net(pretrained=False)
    parts = {}
    for name, (pixels, labels) in {"training": training_digits(), "held-out": held_out_digits()}.items():
        parts[name] = as_inputs(pixels), torch.from_numpy(labels)
    train(network, *parts["training"])
    reached = {name: accuracy(network, *part) for name, part in parts.items()}
    for name, (_, labels) in parts.items():
        print(f"{name:8} {len(labels):5,} digits, {reached[name]:.2%} right")
    if reached["held-out"] <= MIN_ACCURACY:
        print(
            f"train_digits: the weights were not written, because the accuracy is not above {MIN_ACCURACY:.0%}; "
            "try another --seed",
            file=sys.stderr,
        )
        return 1
    torch.save(network.state_dict(), arguments.weights)
    print(f"written: {arguments.weights} ({arguments.weights.stat().st_size:,} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
