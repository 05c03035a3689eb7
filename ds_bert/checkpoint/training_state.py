"""Going on from a checkpoint: weights by Hugging Face's names, moments by the same names, and the step.

Dropout, the order of examples, masks and the learning rate follow from the arguments (seed among them) and the step,
whatever the cut. So the step is all that a run needs besides weights and moments to go on as if it had not stopped: no
generator's state is kept, and the data's position is the step, too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.manifest import ARGUMENTS, STATE, check_files, faults
from ds_bert.checkpoint.pretrained import best_known_to, offer_model
from ds_bert.checkpoint.saving import TrainedStage, gather, save_checkpoint
from ds_bert.checkpoint.tensors import MOMENTS, TensorFolder, has_tensors
from ds_bert.errors import UserError
from ds_bert.files import read_json

__all__ = ["save_checkpoint"]  # known by this name here, too


def read_state(checkpoint: Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """What the saver was told of the run.

    Args:
        checkpoint: its folder.
        needed: keys that must be there beside "step" and "optimizer".

    Raises:
        UserError: the checkpoint is damaged.
    """
    check_files(checkpoint, tensors=False)
    state = read_json(checkpoint / STATE)
    if isinstance(state, dict) and (checkpoint / ARGUMENTS).is_file():
        state["arguments"] = read_json(checkpoint / ARGUMENTS)
    missing = {"step", "optimizer", *needed} - set(state if isinstance(state, dict) else ())
    if missing:
        raise UserError(f"{checkpoint / STATE}: has no {' and no '.join(sorted(missing))}: damaged; restore the file")
    return state


def resume(engine: TrainedStage, found: Path) -> Path:
    """Go on from a run's newest whole checkpoint; all processes call this.

    Args:
        engine: with first weights.
        found: the newest checkpoint that all processes have found; where it is damaged, an earlier one takes its place.

    Returns:
        The checkpoint that was loaded.

    Raises:
        UserError: on all processes, as `load_newest` does.
    """
    newest = load_newest(found.parent, engine)
    if engine.grid.rank == 0:  # a run that was killed may have come no further than to its checkpoint
        offer_model(found.parent, best_known_to(newest))
    return newest


def load_newest(output_dir: Path, engine: TrainedStage) -> Path:
    """Go on from the newest whole checkpoint of a run, whatever cut wrote it; all processes call this.

    Together they read every byte and compare it with the manifest before any weight changes. Rank 0 says on stderr
    which checkpoints are skipped, and why.

    Returns:
        The checkpoint.

    Raises:
        UserError: none is whole, or it is of another model.
    """
    grid, say = engine.grid, None
    if grid.rank == 0:
        folders.clean(output_dir)
        say = folders.say_on_stderr
    found = gather(engine.control, folders.candidates(output_dir), grid.world_size)[0]  # all take rank 0's word
    checkpoint = folders.first_whole(found, lambda candidate: _faults_found_together(candidate, engine), say)
    if checkpoint is None:
        raise UserError(f"{output_dir}: has no checkpoint to go on from")
    _load(checkpoint, engine)
    return checkpoint


def load_checkpoint(checkpoint: Path, engine: TrainedStage) -> None:
    """Go on from this checkpoint, whatever cut wrote it; all processes call this.

    Raises:
        UserError: it is not whole, or of another model; no weight has changed.
    """
    folders.first_whole([checkpoint], lambda candidate: _faults_found_together(candidate, engine))
    _load(checkpoint, engine)


def _faults_found_together(checkpoint: Path, engine: TrainedStage) -> list[str]:
    """A checkpoint's `faults`, the same on all processes, each of which reads a share of its files."""
    grid = engine.grid
    found = gather(engine.control, faults(checkpoint, share=(grid.rank, grid.world_size)), grid.world_size)
    return sorted({fault for part in found for fault in part})


def _load(checkpoint: Path, engine: TrainedStage) -> None:
    """Read what this process needs, once all have seen that they find what they need."""
    problem = None
    try:
        state = read_state(checkpoint)
        stored = _Stored(checkpoint, engine.optimizer.moments())
        for share in engine.optimizer.shares(state["step"]):
            stored.check(share)
    except UserError as error:
        problem = str(error)
    for found in gather(engine.control, problem, engine.grid.world_size):
        if found:
            raise UserError(found)
    engine.optimizer.load(stored.read, stored.kinds, state["optimizer"], state["step"])
    engine.resume_at(state["step"])


class _Stored:
    """A checkpoint's tensors, as the engine asks for them.

    Args:
        checkpoint: its folder.
        moments: kinds of the optimizer's. Where none of them is there, they begin anew; where one is, all are needed.
    """

    def __init__(self, checkpoint: Path, moments: set[str]) -> None:
        self._weights = TensorFolder(checkpoint)
        self._rest = TensorFolder(checkpoint, MOMENTS) if has_tensors(checkpoint, MOMENTS) else None
        stored = {name.partition("/")[0] for name in self._rest.names()} if self._rest else set()
        self.kinds = stored | moments if stored & moments else stored

    def check(self, share: Any) -> None:
        """Raise `UserError` if a tensor is missing or has another shape."""
        if share.kind == "weights" or share.kind in self.kinds:
            folder, name = self._find(share)
            folder.check(name, share.shape)

    def read(self, share: Any) -> None:
        """Copy what belongs to a share into it."""
        folder, name = self._find(share)
        folder.read_part(name, share.begin, share.part)

    def _find(self, share: Any) -> tuple[TensorFolder, str]:
        if share.kind == "weights":
            return self._weights, share.name
        assert self._rest
        return self._rest, f"{share.kind}/{share.name}"
