"""Saving a training run, by all processes together, at once or while training goes on.

Each file has one writer, which hashes it on the way: no process gathers other stages' tensors, and no two write to one
file. The replicas of a stage share out its files, and each copies to its host only what it writes or alone holds.
"""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

import torch
import torch.distributed as dist

from ds_bert.checkpoint import folders
from ds_bert.checkpoint.manifest import ARGUMENTS, STAGE_MAP, STATE, THREADS, Entry
from ds_bert.checkpoint.pretrained import offer_model
from ds_bert.checkpoint.tensors import bring_together, copies, describe_weights, files_by_name, write_tensors
from ds_bert.files import write_atomically, write_json
from ds_bert.stage_map import to_json


class TrainedStage(Protocol):
    """What of an engine is saved."""

    module: Any
    grid: Any
    optimizer: Any
    control: Any
    steps_done: int

    def resume_at(self, step: int) -> None:
        """Number the next global batch."""


@dataclass(frozen=True)
class _Snapshot:
    """What is to be written of a step.

    Args:
        step: the optimizer step.
        files: {file's name: {tensor's name: the engine's `Share`}} of what this process writes, or holds a part of for
            the one that does; a file is dropped once that is done.
        state: the run's, as JSON.
        best: step of the checkpoint to keep whatever its age.
        notes: JSON to be written into the output folder once the checkpoint is whole, by file name.
    """

    step: int
    files: dict[str, dict[str, Any]]
    state: dict[str, str]
    best: int | None
    notes: dict[str, str]


class CheckpointSaver:
    """Writes the checkpoints of a run; all processes make one, and make the same calls.

    Args:
        output_dir: a folder that all processes see.
        engine: whose weights, moments and step are saved.
        describe: writes what else belongs to the model (config.json, tokenizer) into a folder; called on rank 0.
        state: what else belongs to the run, as JSON.
        keep: checkpoints to keep, the newest ones; 0 keeps all.
        in_background: whether `save` returns as soon as the tensors are copied to the host. Otherwise they stay where
            they are, and go through the host's memory a few files at a time.
    """

    def __init__(
        self,
        output_dir: Path,
        engine: TrainedStage,
        describe: Callable[[Path], None],
        state: Mapping[str, Any],
        keep: int = 0,
        in_background: bool = False,
    ) -> None:
        self.output_dir, self.engine, self.describe, self.state = output_dir, engine, describe, dict(state)
        self.keep, self.in_background = keep, in_background
        # A group of its own: the thread's collectives must not come between those of the steps that go on.
        self._group = engine.grid.new_group(backend="gloo") if in_background else engine.control
        self._files = files_by_name(gather(engine.control, engine.module.layers_by_name(), engine.grid.world_size))
        self._writers = self._share_out()
        self._thread: Thread | None = None
        self._failure: BaseException | None = None

    def save(
        self, state: Mapping[str, Any] | None = None, best: int | None = None, notes: Mapping[str, Any] | None = None
    ) -> Path:
        """Write `checkpoint-<step>`; the engine must be drained.

        Args:
            state: what belongs to the run now, beside what the saver was made with.
            best: step of a checkpoint that is kept whatever its age.
            notes: {file name: JSON} to be written into the output folder once the checkpoint is whole.

        Returns:
            Its path, which in the background does not exist yet.

        Raises:
            RuntimeError: a process could not write its part, now or in the background since the last call; earlier
                checkpoints are as they were.
        """
        self.finish()
        engine, step = self.engine, self.engine.steps_done
        self._all_do(engine.control, step, partial(folders.begin, self.output_dir, step), on=0)
        snapshot = _Snapshot(
            step,
            self._shares_by_file(step),
            self._describe_run({**self.state, **(state or {})}, step, engine.optimizer.scalars(step)),
            best,
            {name: _json(value) for name, value in (notes or {}).items()},
        )
        if self.in_background:
            _copy_to_host(snapshot.files)
            self._thread = Thread(target=self._write_in_background, args=(snapshot,), daemon=True)
            self._thread.start()
        else:
            self._write(snapshot)
        return folders.checkpoint_folder(self.output_dir, step)

    def finish(self) -> None:
        """Wait until the checkpoint that is under way is whole.

        Raises:
            RuntimeError: it could not be written.
        """
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._failure:
            failure, self._failure = self._failure, None
            raise failure

    def _share_out(self) -> dict[str, int]:
        """The rank that writes each file: a replica of the stage of its layer, each every so manieth."""
        grid, owners = self.engine.grid, self.engine.optimizer.owners
        files: dict[int, set[str]] = {}
        for name, of_name in self._files.items():
            files.setdefault(owners[name][0], set()).update(of_name)
        return {
            file: grid.rank_of(stage, number % grid.num_replicas)
            for stage, of_stage in files.items()
            for number, file in enumerate(sorted(of_stage))
        }

    def _shares_by_file(self, step: int) -> dict[str, dict[str, Any]]:
        """What this process writes, or holds a part of for the writer; see `_Snapshot`."""
        rank, optimizer = self.engine.grid.rank, self.engine.optimizer
        unborn = set() if step else optimizer.moments()  # zeros need no file
        files: dict[str, dict[str, Any]] = {}
        for share in optimizer.shares(step):
            if share.kind in unborn:
                continue
            weights_file, moments_file = self._files[share.name]
            is_weight = share.kind == "weights"
            file, name = (weights_file, share.name) if is_weight else (moments_file, f"{share.kind}/{share.name}")
            writer = self._writers[file]
            if rank in (writer, *(holder for holder, _, _ in share.sources(writer))):
                files.setdefault(file, {})[name] = share
        return files

    def _describe_run(self, state: Mapping[str, Any], step: int, scalars: Mapping[str, Any]) -> dict[str, str]:
        """The JSON files of a run's state. What depends on the cut lies apart, so that the rest does not."""
        rest = {key: value for key, value in state.items() if key != "arguments"}
        if "global_batch" in state:
            rest["examples_seen"] = step * state["global_batch"]
        files = {
            STATE: _json({"step": step, "optimizer": scalars, **rest}),
            STAGE_MAP: to_json(self.engine.grid.stage_map),
        }
        return files | ({ARGUMENTS: _json(state["arguments"])} if "arguments" in state else {})

    def _write_in_background(self, snapshot: _Snapshot) -> None:
        try:
            self._write(snapshot)
        except BaseException as failure:  # `finish` raises it
            self._failure = failure

    def _write(self, snapshot: _Snapshot) -> None:
        try:
            parts = self._all_do(self._group, snapshot.step, partial(self._write_files, snapshot))
            written = {file: entry for part in parts for file, entry in part.items()}
            self._all_do(self._group, snapshot.step, partial(self._commit, snapshot, written), on=0)
        except RuntimeError:
            if self.engine.grid.rank == 0:
                folders.clean(self.output_dir)  # a full disk has use for the space
            raise

    def _write_files(self, snapshot: _Snapshot) -> dict[str, tuple[Entry, int]]:
        """Write this process's files; return what the manifest says of each, and the bytes of its tensors.

        Where a file cannot be written, the others' parts are still sent and taken, so that nobody waits for them.
        """
        folder, rank = folders.partial_folder(self.output_dir, snapshot.step), self.engine.grid.rank
        writes: dict[str, Future[Entry]] = {}
        sizes: dict[str, int] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            for file in sorted(snapshot.files):  # in the same order on all processes
                under_way = [write for write in writes.values() if not write.done()]
                if len(under_way) >= THREADS:
                    wait(under_way, return_when=FIRST_COMPLETED)
                tensors = bring_together(snapshot.files.pop(file), self._writers[file], rank, self._group)
                if self._writers[file] == rank:
                    sizes[file] = sum(tensor.nbytes for tensor in tensors.values())
                    writes[file] = pool.submit(_write_file, folder / file, tensors)
        return {file: (write.result(), sizes[file]) for file, write in writes.items()}

    def _commit(self, snapshot: _Snapshot, written: Mapping[str, tuple[Entry, int]]) -> None:
        folder = folders.partial_folder(self.output_dir, snapshot.step)
        self.describe(folder)
        describe_weights(
            folder,
            {name: file for name, (file, _) in self._files.items()},
            {file: size for file, (_, size) in written.items()},
        )
        for name, text in snapshot.state.items():
            write_atomically(folder / name, text)
        written_now = folders.commit(
            self.output_dir, snapshot.step, {file: entry for file, (entry, _) in written.items()}
        )
        for name, text in snapshot.notes.items():
            write_atomically(self.output_dir / name, text)
        best = written_now if snapshot.best is None else folders.checkpoint_folder(self.output_dir, snapshot.best)
        offer_model(self.output_dir, best if (best / folders.MANIFEST).is_file() else written_now)
        folders.remove_oldest(self.output_dir, self.keep, snapshot.best)

    def _all_do(self, group: Any, step: int, action: Callable[[], Any], on: int | None = None) -> list[Any]:
        """Act on all processes, or on the one of rank ``on``, wait for all, and return what each gave.

        Raises:
            RuntimeError: on all processes, where one of them failed; it names them.
        """
        grid, result, error, cause = self.engine.grid, None, None, None
        try:
            if on in (None, grid.rank):
                result = action()
        except Exception as problem:  # whatever it is, the others must not wait for this process
            error, cause = f"{grid}: {problem or type(problem).__name__}", problem
        answers = gather(group, (result, error), grid.world_size)
        problems = [error for _, error in answers if error]
        if problems:
            last = folders.latest(self.output_dir)
            rest = f"{last.name} is as it was" if last else "there is no earlier one"
            message = f"the checkpoint of step {step} could not be written: {'; '.join(problems)}; {rest}"
            raise RuntimeError(message) from cause
        return [result for result, _ in answers]


def _copy_to_host(files: dict[str, dict[str, Any]]) -> None:
    """Replace what the shares are views of by copies."""
    copied = copies({f"{file}/{name}": share.part for file, shares in files.items() for name, share in shares.items()})
    for file, shares in files.items():
        for name, share in shares.items():
            shares[name] = replace(share, part=copied[f"{file}/{name}"])


def _write_file(path: Path, tensors: Mapping[str, torch.Tensor]) -> Entry:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_tensors(path, tensors)


def save_checkpoint(
    output_dir: Path, engine: TrainedStage, describe: Callable[[Path], None], state: Mapping[str, Any]
) -> Path:
    """Write one checkpoint at once; see `CheckpointSaver`."""
    return CheckpointSaver(output_dir, engine, describe, state).save()


def gather(group: Any, value: Any, world_size: int) -> list[Any]:
    """Give all processes everyone's ``value``, in the order of ranks."""
    values: list[Any] = [None] * world_size
    dist.all_gather_object(values, value, group=group)
    return values


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def describe_model(config: Any, tokenizer: Any) -> Callable[[Path], None]:
    """Return a function that writes a Hugging Face ``config.json`` and a tokenizer into a folder."""

    def describe(folder: Path) -> None:
        write_json(folder / "config.json", json.loads(config.to_json_string(use_diff=False)))
        tokenizer.save(folder, config.max_position_embeddings)

    return describe
