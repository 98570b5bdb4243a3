"""What a network of the gallery learns of synthetic heads: examples, windows, losses and scores.

A system's recipe says which channels it takes, in which orientation and with which intensities, and how its scores are
decoded. So a network is trained on what the runtime will give it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from statistics import mean
from typing import Literal

import heads
import numpy as np
import real_heads
import torch
import torch.nn.functional as F
from monai.inferers import sliding_window_inference
from monai.metrics import compute_roc_auc
from numpy.typing import NDArray
from torch import Tensor, nn

from lowres_seg.bundle.stage import Argmax, Classes
from lowres_seg.export import importers, loading, recipes
from lowres_seg.export.importers import Source
from lowres_seg.metrics.agreement import dice
from lowres_seg.runtime.normalise import normalise

Shape = tuple[int, int, int]
Task = Literal["tumors", "grades", "annotators", "strokes"]

#: Heads that windows are drawn from, and how many steps one of them lasts.
KEPT, STEPS_A_HEAD = 12, 4
#: Share of the windows that are put on a voxel with a label.
ON_LABELS = 0.67
#: Share of the heads with a high grade. Networks that score labels, one of which a high grade hardly has, see more low
#: ones.
HIGH_GRADES = {"tumors": 0.75, "annotators": 0.75, "grades": 0.5}
HIGH_GRADES_OF_LABELS = 0.4
#: Share of the heads of task "tumors" that are real cases, where there are any.
REAL = 1 / 6
#: Heads that are not trained on, and the first of their seeds.
UNSEEN, UNSEEN_GRADES, UNSEEN_SEED = 6, 40, 1_000_000_000
_AXES = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


@dataclass(frozen=True)
class Training:
    """How a system is trained.

    Attributes
    ----------
    task : str
        That of `heads.write`.
    width : float
        Factor on the paper's numbers of channels.
    window : tuple of 3 int
        Voxels that a network sees at once, in the order of its array.
    head : tuple of 3 int
        Voxels of a head to the right, to the front and up.
    batch : int
        Windows a step.
    steps : int
    minutes : float
        A guess of what that takes on two cores of a server CPU; `training.json` has what it took.
    """

    task: Task
    width: float
    window: Shape
    head: Shape
    batch: int
    steps: int
    minutes: float


@dataclass(frozen=True)
class Example:
    """A head as a network sees it: channels (C, D, H, W), and what it shall give.

    `wanted` is (regions, D, H, W) of 0 and 1, or the class of each voxel (D, H, W), or the class of the head (1,).
    """

    x: Tensor
    wanted: Tensor

    @property
    def marked(self) -> Tensor:
        """Voxels with a label, (D, H, W); all voxels if the head has a class."""
        if self.wanted.ndim == 1:
            return torch.ones(self.x.shape[1:], dtype=torch.bool)
        return self.wanted.amax(0) > 0 if self.wanted.ndim == 4 else self.wanted > 0


class System:
    """A system of the gallery with its heads, windows and losses."""

    def __init__(self, name: str, training: Training) -> None:
        self.name, self.training = name, training
        self.source: Source = importers.read(recipes.named(name), {})
        self.recipe = self.source.recipe
        (self.stage,) = self.recipe.stages
        self.decode = self.stage.decode
        self.neighbours = 0 if self.stage.windows is None else self.stage.windows.neighbours

    def build(self, network: str) -> nn.Module:
        """The network at the width of the training, as its factory makes it."""
        entry = self.recipe.networks[network]
        assert entry.factory is not None
        factory = loading._function(self.source.home, entry.factory)  # noqa: SLF001
        module: nn.Module = factory(**{**entry.arguments, "width": self.training.width})
        return module

    def real_cases(self) -> list[str]:
        """Names of the real cases that it is trained on beside synthetic heads."""
        return real_heads.cases() if self.training.task == "tumors" and REAL else []

    def head(self, seed: int, *, high_grade: bool) -> heads.Head:
        """A head of the task; strokes have no grade."""
        shape = self.training.head
        if self.training.task == "strokes":
            return heads.stroke(shape, seed)
        return heads.tumor(shape, seed, high_grade=high_grade)

    def labels(self, head: heads.Head) -> NDArray[np.uint8]:
        """Label map that the system shall give, RAS."""
        return head.annotators if self.training.task == "annotators" else head.labels

    def regions(self) -> dict[str, tuple[int, ...]]:
        """Labels of each region that is scored, in the order of the network's channels if it gives regions."""
        named = {region.name: region.labels for region in self.recipe.regions}
        return named or {label.name: (label.value,) for label in self.recipe.labels}

    def example(self, head: heads.Head, channels: Sequence[str]) -> Example:
        """What a network with these channels sees of a head."""
        x = np.stack([self._turned(head.images[channel]) for channel in channels])
        normalise(x, self.stage.normalise.rules, {}, channels)
        return Example(torch.from_numpy(x), torch.from_numpy(self._wanted(head)))

    def _wanted(self, head: heads.Head) -> NDArray[np.float32] | NDArray[np.int64]:
        match self.decode:
            case Classes():
                return np.array([head.high_grade], np.float32)
            case Argmax():
                labels = self._turned(self.labels(head))
                return np.searchsorted(np.array(self.decode.labels), labels)
            case _:
                labels = self._turned(self.labels(head))
                return np.stack([np.isin(labels, of) for of in self.regions().values()]).astype(np.float32)

    def _turned(self, data: NDArray[np.generic]) -> NDArray[np.generic]:
        """A RAS array in the orientation of the stage."""
        letters = self.stage.conform.orientation
        assert letters is not None
        flipped = tuple(axis for axis, letter in enumerate(letters) if letter in "LPI")
        return np.ascontiguousarray(np.flip(data.transpose([_AXES[letter] for letter in letters]), flipped))

    def window(self, example: Example, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A random window of an example, mirrored at random axes."""
        if rng.random() < ON_LABELS:
            marked = example.marked.nonzero()
            at = marked[rng.integers(len(marked))].numpy() if len(marked) else None
        else:
            at = None
        box, sides = [], example.x.shape[1:]
        for axis, (side, size) in enumerate(zip(sides, self.training.window, strict=True)):
            last = side - size
            first = rng.integers(last + 1) if at is None else at[axis] - rng.integers(size)
            box.append(slice(int(np.clip(first, 0, last)), int(np.clip(first, 0, last)) + size))
        x, wanted = self.seen(example.x, box), example.wanted
        if wanted.ndim > 1:
            wanted = wanted[(..., *box)]
        if self.neighbours or self.training.window[0] == 1:
            wanted = wanted.squeeze(-3)
        axes = [-1 - axis for axis in range(x.ndim - 1) if rng.random() < 0.5]
        return torch.flip(x, axes), torch.flip(wanted, axes) if wanted.ndim > 1 else wanted

    def seen(self, x: Tensor, box: Sequence[slice]) -> Tensor:
        """A window of (C, D, H, W): (C, d, h, w), or (slices * C, h, w) for a network that sees slices."""
        if self.training.window[0] > 1:
            return x[(slice(None), *box)]
        around = F.pad(x, (0, 0, 0, 0, self.neighbours, self.neighbours))
        thick = slice(box[0].start, box[0].stop + 2 * self.neighbours)
        return around[:, thick, box[1], box[2]].transpose(0, 1).flatten(0, 1)

    def loss(self, scores: Tensor, wanted: Tensor) -> Tensor:
        """Cross entropy, and for masks 1 minus the mean Dice of the regions that are scored."""
        match self.decode:
            case Classes():
                return F.binary_cross_entropy_with_logits(scores.flatten(1), wanted)
            case Argmax():
                ones = F.one_hot(wanted, scores.shape[1]).movedim(-1, 1)
                of = [
                    [self.decode.labels.index(label) for label in labels if label in self.decode.labels]
                    for labels in self.regions().values()
                ]
                given, asked = (torch.stack([x[:, one].sum(1) for one in of], 1) for x in (scores.softmax(1), ones))
                return F.cross_entropy(scores, wanted) + _dice_loss(given, asked)
            case _:
                return F.binary_cross_entropy_with_logits(scores, wanted) + _dice_loss(scores.sigmoid(), wanted)

    @torch.inference_mode()
    def probabilities(self, network: nn.Module, x: Tensor) -> Tensor:
        """What a network gives for a whole head (C, D, H, W): (C, D, H, W), or (1,) for a class."""
        scores: Tensor
        if isinstance(self.decode, Classes):
            return network(x[None]).flatten().sigmoid()
        if self.training.window[0] == 1:
            planes = [self.seen(x, (slice(at, at + 1), slice(None), slice(None))) for at in range(x.shape[1])]
            scores = torch.cat([network(part) for part in torch.stack(planes).split(8)]).transpose(0, 1)
        else:
            scores = sliding_window_inference(x[None], self.training.window, 1, network, overlap=0.5, mode="gaussian")[
                0
            ]
        return scores.softmax(0) if isinstance(self.decode, Argmax) else scores.sigmoid()

    def scores(self, networks: Mapping[str, nn.Module]) -> dict[str, float]:
        """Scores on unseen heads: the AUC, or the Dice of each region, averaged over the heads that have it."""
        for network in networks.values():
            network.eval()
        many = UNSEEN_GRADES if self.training.task == "grades" else UNSEEN
        found: dict[str, list[float]] = {}
        given, wanted = [], []
        for number in range(many):
            head = self.head(UNSEEN_SEED + number, high_grade=number % 2 == 0)
            each = [
                self.probabilities(module, self.example(head, self.channels(name)).x)
                for name, module in networks.items()
            ]
            probabilities = torch.stack(each).mean(0)
            if isinstance(self.decode, Classes):
                given.append(probabilities)
                wanted.append(torch.tensor([head.high_grade]))
                continue
            truth, decoded = self._turned(self.labels(head)), self._decoded(probabilities.numpy())
            for region, of in self.regions().items():
                if np.isin(truth, of).any():
                    found.setdefault(region, []).append(dice(np.isin(decoded, of), np.isin(truth, of)))
        if given:
            return {"AUC": round(float(compute_roc_auc(torch.stack(given), torch.stack(wanted).int())), 4)}
        return {f"Dice {region}": round(mean(values), 4) for region, values in found.items()}

    def _decoded(self, probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
        if isinstance(self.decode, Argmax):
            return np.array(self.decode.labels, np.uint8)[probabilities.argmax(0)]
        found = np.zeros(probabilities.shape[1:], np.uint8)
        for painted in self.decode.regions:
            found[probabilities[painted.channel] > 0.5] = painted.label
        return found

    def channels(self, network: str) -> Sequence[str]:
        """Channels of a network, in its order."""
        return (self.stage.inputs or {}).get(network, self.recipe.channels)

    def batches(self, channels: Sequence[str], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Windows of heads and real cases without end. A new one takes the place of the oldest every few steps."""
        rng = np.random.default_rng((2, seed))
        share = HIGH_GRADES.get(self.training.task, 0.0)
        if self.training.task == "tumors" and isinstance(self.decode, Argmax):
            share = HIGH_GRADES_OF_LABELS
        real = [self.example(real_heads.tumor(name, self.training.head), channels) for name in self.real_cases()]
        kept: list[Example] = []
        for step in count():
            while len(kept) < KEPT or step % STEPS_A_HEAD == 0:
                if real and rng.random() < REAL:
                    example = real[rng.integers(len(real))]
                else:
                    head = self.head(int(rng.integers(UNSEEN_SEED)), high_grade=rng.random() < share)
                    example = self.example(head, channels)
                kept = [*kept, example][-KEPT:]
                if len(kept) == KEPT:
                    break
            drawn = [self.window(kept[rng.integers(len(kept))], rng) for _ in range(self.training.batch)]
            yield torch.stack([x for x, _ in drawn]), torch.stack([wanted for _, wanted in drawn])


def _dice_loss(probabilities: Tensor, wanted: Tensor) -> Tensor:
    """1 minus the Dice of (N, C, ...) with probabilities, over the whole batch, averaged over C."""
    axes = [0, *range(2, wanted.ndim)]
    both, sums = (probabilities * wanted).sum(axes), (probabilities + wanted).sum(axes)
    return 1 - ((2 * both + 1) / (sums + 1)).mean()
