"""The model on its way: its numbers, and its optimizer's where a step is to be taken, as one run of bytes, whose length
both sides know.

No shape, no type and no object travels with them, so there is nothing in a message that could be executed or claim more
memory than it holds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from dqc_lib.aside import write_aside
from dqc_lib.fisher import GradientScale

if TYPE_CHECKING:
    import keras

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Layout:
    """Which arrays the bytes hold, in this order.

    Examples
    --------
    >>> layout = Layout.of((np.zeros(2, np.float32), np.int64(3)))
    >>> layout.n_bytes, [array.tolist() for array in layout.unpack(layout.pack((np.ones(2, np.float32), np.int64(4))))]
    (16, [[1.0, 1.0], 4])
    """

    shapes: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray]) -> Layout:
        """Return the layout of these arrays."""
        return cls(tuple(np.shape(array) for array in arrays), tuple(np.asarray(array).dtype.str for array in arrays))

    @property
    def n_bytes(self) -> int:
        """How many bytes all of them take."""
        return sum(self._sizes)

    def first(self, n: int) -> Layout:
        """Return the layout of the first arrays."""
        return Layout(self.shapes[:n], self.kinds[:n])

    @property
    def _sizes(self) -> list[int]:
        pairs = zip(self.shapes, self.kinds, strict=True)
        return [int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize for shape, kind in pairs]

    def pack(self, arrays: Sequence[np.ndarray]) -> bytes:
        """Return the bytes of the arrays."""
        pairs = zip(arrays, self.kinds, strict=True)
        return b"".join(np.asarray(array, dtype=kind).tobytes() for array, kind in pairs)

    def unpack(self, data: bytes) -> Arrays:
        """Return the arrays in the bytes, which cannot be written to.

        Raises
        ------
        ValueError
            If they are no bytes, too few or too many, or hold a number that is not finite.
        """
        if not isinstance(data, bytes) or len(data) != self.n_bytes:
            came = f"{len(data)}" if isinstance(data, bytes) else type(data).__name__
            raise ValueError(f"expected weights of {self.n_bytes} bytes, came {came}")
        ends = np.cumsum(self._sizes)
        arrays = tuple(
            np.frombuffer(data, kind, count=int(np.prod(shape, dtype=np.int64)), offset=int(end) - size).reshape(shape)
            for shape, kind, end, size in zip(self.shapes, self.kinds, ends, self._sizes, strict=True)
        )
        for number, array in enumerate(arrays):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                n = int(np.sum(~np.isfinite(array)))
                raise ValueError(f"{n} of the {array.size} numbers of array {number} of the weights are not finite")
        return arrays


@dataclass(frozen=True)
class Start:
    """A model as the server holds it, which needs no Keras for that: what it is, and its numbers.

    Parameters
    ----------
    design : dict
        The options of `build_sfcn` that matter for a model whose numbers are given, and `frozen`.
    arrays : tuple of ndarray
        The variables of the model and then of its optimizer.
    rate_at : int
        Which of them is the learning rate.
    steps_at : int
        Which of them counts the steps taken: Adam divides by what it comes to.
    n_variables : int
        How many of them, the first ones, are the model's own: all that is needed to look at images. With Adam they are
        a third of the bytes, and a little.
    trained_at : tuple of int
        Which of them steps move, in the order of the model's gradients.
    statistics_at : tuple of pairs of int
        Which of them are the moving mean and variance of each layer of normalization, from the input on.
    squares_at : tuple of int
        Which of them are means of squares, and so never below 0: those variances, and Adam's second moments.
    """

    design: dict
    arrays: Arrays
    rate_at: int
    steps_at: int
    n_variables: int
    trained_at: tuple[int, ...]
    statistics_at: tuple[tuple[int, int], ...]
    squares_at: tuple[int, ...] = ()

    @property
    def layout(self) -> Layout:
        """What travels to a step and back."""
        return Layout.of(self.arrays)

    @property
    def own_layout(self) -> Layout:
        """What travels to those who only look at images, and would in federated averaging."""
        return self.layout.first(self.n_variables)

    @classmethod
    def of(cls, model: keras.Model) -> Start:
        """Return what there is to send of a model from `build_sfcn`."""
        from dqc_lib.networks import is_frozen

        variables = [*model.variables, *model.optimizer.variables]
        arrays = list_arrays(model)
        at = {variable.path: number for number, variable in enumerate(variables)}
        rate_at, steps_at = (
            next(number for path, number in at.items() if path.endswith(name))
            for name in ("learning_rate", "iteration")
        )
        means = [path for path in at if path.endswith("/moving_mean")]
        statistics_at = tuple((at[path], at[path.removesuffix("mean") + "variance"]) for path in means)
        squares_at = tuple(number for path, number in at.items() if path.endswith(("/moving_variance", "_velocity")))
        trained_at = tuple(at[variable.path] for variable in model.trainable_variables)
        convolutions = [layer for layer in model.layers if layer.name.startswith("conv")]
        reduced = any("bfloat16" in layer.dtype_policy.name for layer in convolutions)
        design = {
            "shape": list(model.input_shape[1:4]),
            "width": [layer.filters for layer in convolutions],
            "dropout": model.get_layer("dropout").rate,
            "precision": "bfloat16" if reduced else "float32",
            "frozen": is_frozen(model),
        }
        return cls(design, arrays, rate_at, steps_at, len(model.variables), trained_at, statistics_at, squares_at)

    def build(self) -> keras.Model:
        """Return the model."""
        from dqc_lib.snapshots import Snapshot, restore_snapshot

        model = build_design(self.design)
        restore_snapshot(model, Snapshot(self.arrays))
        return model

    def save(self, path: Path) -> None:
        """Write it to an `.npz` file."""
        places = ("rate_at", "steps_at", "n_variables", "trained_at", "statistics_at", "squares_at")
        note = json.dumps({"design": self.design} | {name: getattr(self, name) for name in places})
        arrays = {f"array-{number:03d}": array for number, array in enumerate(self.arrays)}
        write_aside(Path(path), lambda aside: np.savez(aside, note=np.array(note), **arrays))

    @classmethod
    def load(cls, path: Path) -> Start:
        """Return what `save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            note = json.loads(str(archive["note"]))
            arrays = tuple(archive[name] for name in sorted(archive.files) if name != "note")
        statistics_at = tuple((mean_at, variance_at) for mean_at, variance_at in note["statistics_at"])
        trained_at, squares_at = tuple(note["trained_at"]), tuple(note["squares_at"])
        numbers = (note[name] for name in ("rate_at", "steps_at", "n_variables"))
        return cls(note["design"], arrays, *numbers, trained_at, statistics_at, squares_at)


def build_design(design: dict) -> keras.Model:
    """Return a model of this design, whose numbers are yet to come."""
    from dqc_lib.networks import build_sfcn, freeze_normalization

    model = build_sfcn(**{name: value for name, value in design.items() if name != "frozen"})
    if design["frozen"]:
        freeze_normalization(model)
    return model


def pack_scale(scale: GradientScale, *, without: int | None = None) -> bytes:
    """Return the file of a scale, see `GradientScale.save`."""
    content = BytesIO()
    scale.save(content, without=without)
    return content.getvalue()


def unpack_scale(content: bytes) -> GradientScale:
    """Return the scale in a file's bytes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scale.npz"
        path.write_bytes(content)
        return GradientScale.load(path)


def list_arrays(model: keras.Model) -> Arrays:
    """Return copies of the variables of the model and its optimizer."""
    import keras

    variables = [*model.variables, *model.optimizer.variables]
    return tuple(np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables)
