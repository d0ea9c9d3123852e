"""Read handwritten digits with a PyTorch model in parallel, in batches, and count them.

    python examples/pytorch_batcher.py             the held-out part of scikit-learn's digits, many times
    python examples/pytorch_batcher.py ~/digits    the pictures in any folder, each filled by one digit; those in
                                                   folders named 0 to 9 or zero to nine are checked as well

There are four steps. Each is an ordinary generator, which can be called and tested without starting a process:

    load_held_out -> classify (two replicas, each with a model of its own) -> name_classes (a thread) -> print_counts

By default the pipeline runs twice, first with processes and then with all steps in this process, and compares the times
and the counts. The counts do not depend on the order in which images arrive or on the batches.

`torch.hub.load` loads the model from `hub/`, in the same way as it loads a model from the network. Each replica uses a
CUDA device of its own if there are enough, shares one if there are fewer, and uses one core if there are none.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import numpy as np
    from digit_images import DIGIT_NAMES, DigitImage, DigitsError, folder_pictures, load_held_out, load_pictures

    from pipeline_executor import PipelineTask, execute, worker_info
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    sys.exit(f"pytorch_batcher: the package {missing.name} is not installed; run: pip install '.[examples]'")

# PyTorch is imported inside the step that needs it. So the other steps start without it, and no process has used
# PyTorch before it forks: neither CUDA nor PyTorch's threads survive a fork.

HUB = Path(__file__).resolve().parent / "hub"
HUB_ENTRY = "digit_net"

REPEAT_HELD_OUT = 50
"""Repetitions, so that the work takes longer than the start: each process with a model first imports PyTorch."""
NAMES_PER_LINE = 5

PYTORCH_MISSING = (
    "PyTorch is not installed; the CPU build is enough, and https://pytorch.org/get-started/locally/ has the command"
    " for it (on Linux, a plain `pip install torch` fetches one for CUDA, several GB)"
)


@dataclass(frozen=True)
class Prediction:
    """The class that the model finds in an image, as an index. `label` is the right one, or None if unknown."""

    image: str
    class_index: int
    label: int | None


@dataclass(frozen=True)
class NamedPrediction:
    """A prediction with the names of the classes instead of their indices."""

    image: str
    class_name: str
    label_name: str | None


def batches(images: Iterable[DigitImage], size: int) -> Iterator[list[DigitImage]]:
    """Yield lists of `size` images. The last list may be shorter."""
    remaining = iter(images)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def device_for(replica: int, num_cuda_devices: int) -> str:
    """Return the device of a replica: a CUDA device of its own if there are enough, "cpu" if there are none."""
    return f"cuda:{replica % num_cuda_devices}" if num_cuda_devices else "cpu"


def classify(images: Iterable[DigitImage], hub: Path, entry: str, batch_size: int) -> Iterable[Prediction]:
    """Worker: classify the images in batches, by the model that torch.hub finds in the folder `hub` as `entry`."""
    import torch

    try:
        replica = worker_info().replica
    except RuntimeError:  # called as a plain generator, outside of a pipeline
        replica = 0
    device = device_for(replica, torch.cuda.device_count())
    torch.set_num_threads(1)  # the replicas already use all cores
    model = torch.hub.load(str(hub), entry, source="local").to(device)  # once, before the first image
    for batch in batches(images, batch_size):
        pixels = torch.from_numpy(np.stack([image.pixels for image in batch])).to(device)
        with torch.inference_mode():  # not around the yield: under "sequential" it would also apply to the other steps
            scores = model(pixels.unsqueeze(1) / 255)
        for image, class_index in zip(batch, scores.argmax(dim=1).tolist(), strict=True):
            yield Prediction(image.name, class_index, image.label)


def name_classes(predictions: Iterable[Prediction], names: list[str]) -> Iterable[NamedPrediction]:
    """Worker: replace class indices by names. This is too little work for a process, so it runs in a thread."""
    for prediction in predictions:
        label_name = None if prediction.label is None else names[prediction.label]
        yield NamedPrediction(prediction.image, names[prediction.class_index], label_name)


def print_counts(predictions: Iterable[NamedPrediction], names: list[str], counts_file: Path) -> None:
    """Sink: count how often each class was found and how often that was right. Print the counts, write them as JSON."""
    counts = dict.fromkeys(names, 0)
    labelled = right = 0
    for prediction in predictions:
        counts[prediction.class_name] += 1
        if prediction.label_name is not None:
            labelled += 1
            right += prediction.class_name == prediction.label_name
    for first in range(0, len(names), NAMES_PER_LINE):
        cells = (f"{name:>7} {counts[name]:>8,}" for name in names[first : first + NAMES_PER_LINE])
        print("", *cells, sep="")
    if labelled:
        print(f"  {right / labelled:.2%} right of {labelled:,} images whose digit is known")
    counts_file.write_text(json.dumps({"counts": counts, "labelled": labelled, "right": right}))


def build_tasks(
    pictures: list[Path] | None, repeat: int, batch_size: int, procs: int, counts_file: Path
) -> list[PipelineTask[Any, Any]]:
    """Make the tasks of the pipeline.

    `procs` processes have a model each. The source reads `pictures`, or the held-out digits if that is None.
    """
    if pictures is None:
        source: PipelineTask[Any, DigitImage] = PipelineTask(load_held_out, constants={"repeat": repeat})
    else:
        source = PipelineTask(load_pictures, constants={"paths": pictures, "repeat": repeat})
    model = {"hub": HUB, "entry": HUB_ENTRY, "batch_size": batch_size}
    return [
        source,
        PipelineTask(classify, constants=model, num_procs=procs),
        PipelineTask(name_classes, constants={"names": DIGIT_NAMES}, num_threads=1),
        PipelineTask(print_counts, constants={"names": DIGIT_NAMES, "counts_file": counts_file}),
    ]


def count_digits(arguments: argparse.Namespace) -> None:
    """Run the pipeline with each parallelism, print the times, and compare the counts."""
    if importlib.util.find_spec("torch") is None:
        raise DigitsError(PYTORCH_MISSING)
    if arguments.folder is None:
        pictures, origin = None, "held-out digits of scikit-learn"
    else:
        pictures = folder_pictures(arguments.folder)
        origin = f"{len(pictures):,} pictures of {arguments.folder}"
    repeat = arguments.repeat or (REPEAT_HELD_OUT if pictures is None else 1)
    # "sequential" comes last, because it uses PyTorch in this process, which must not fork afterwards.
    ways: list[Any] = ["process", "sequential"] if arguments.parallelism == "both" else [arguments.parallelism]
    times = f", {repeat} times over" if repeat > 1 else ""
    print(f"{origin}{times}, in batches of {arguments.batch_size}", flush=True)
    seconds, counts = [], []
    with tempfile.TemporaryDirectory() as folder:
        for way in ways:
            replicas = 1 if way == "sequential" else arguments.procs
            print(f"{way}, {replicas} model{'s' if replicas > 1 else ''}:", flush=True)
            counts_file = Path(folder, f"{way}.json")
            tasks = build_tasks(pictures, repeat, arguments.batch_size, arguments.procs, counts_file)
            started = time.perf_counter()
            execute(tasks, parallelism=way)
            seconds.append(time.perf_counter() - started)
            counts.append(json.loads(counts_file.read_text()))
            images = sum(counts[-1]["counts"].values())
            print(f"  {seconds[-1]:.2f} s, {images / seconds[-1]:,.0f} images a second", flush=True)
    if len(ways) == 2:
        if counts[0] != counts[1]:
            raise DigitsError("the two runs counted differently; report this")
        print(f"the same counts both ways, in parallel {seconds[1] / seconds[0]:.2f} times as fast")


def positive(text: str) -> int:
    """Read the value of an option that must be at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Read handwritten digits with a PyTorch model and count them.")
    add = parser.add_argument
    add("folder", nargs="?", type=Path, help="pictures, each filled by one digit (default: scikit-learn's digits)")
    ways: list[Any] = ["both", "sequential", "thread", "process", "process-fork", "process-forkserver", "process-spawn"]
    add("--parallelism", choices=ways, default="both", help="both: process, then sequential (default)")
    add("--procs", type=positive, default=2, help="replicas of the model (default: %(default)s)")
    add("--batch-size", type=positive, default=16, help="images in a batch (default: %(default)s)")
    add("--repeat", type=positive, help=f"repetitions (default: 1 for a folder, {REPEAT_HELD_OUT} for the digits)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit code."""
    try:
        count_digits(parse_arguments(argv))
    except DigitsError as error:
        print(f"pytorch_batcher: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
