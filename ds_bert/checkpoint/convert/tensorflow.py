"""Google's TensorFlow checkpoints, pre-trained or fine-tuned with Google's own scripts."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ds_bert.checkpoint.convert.foreign_model import ForeignModel
from ds_bert.errors import UserError
from ds_bert.files import read_json
from ds_bert.modeling.families import FAMILIES

_PREFERRED = ("bert_model.ckpt", "model.ckpt-best")
_VOCABULARIES = ("*.model", "vocab.txt", "*.vocab.txt")
# Optimizers' variables, which lie beside the model's.
_NOT_WEIGHTS = re.compile(
    r"(^|/)(adam_[mv]|lamb_[mv]|\w*(Adam|LAMB|Momentum)\w*)(_\d+)?(/|$)|^global_step$|^(beta[12]_power)$"
)
_KINDS = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}

_SHARED = (
    (r"bert/embeddings/(\w+_embeddings)", r"{family}.embeddings.\1.weight"),
    (r"bert/embeddings/LayerNorm", r"{family}.embeddings.LayerNorm"),
    (r"output_weights", r"classifier.weight"),
    (r"output_bias", r"classifier.bias"),
    (r"cls/squad/output_weights", r"qa_outputs.weight"),
    (r"cls/squad/output_bias", r"qa_outputs.bias"),
)


def read_tensorflow(source: Path) -> ForeignModel:
    """Read a checkpoint with TensorFlow.

    Args:
        source: the folder that Google published, or a checkpoint's prefix in it, such as "model.ckpt-4000".

    Raises:
        UserError: TensorFlow is not installed, or there is no configuration, or not one checkpoint of such a model.
    """
    folder = source if source.is_dir() else source.parent
    config_path, model_type = _find_config(folder)
    fields = {"model_type": model_type, **_read_fields(config_path, model_type)}
    prefix = _find_checkpoint(source)
    weights, ignored = weights_from_variables(_read_variables(prefix), model_type, str(prefix))
    fields |= _labels(weights, fields)
    vocabulary = next((path for pattern in _VOCABULARIES for path in sorted(folder.glob(pattern))), None)
    notes = [f"{len(ignored)} variables of an optimizer are left out"] if ignored else []
    return ForeignModel(config_path, fields, weights, vocabulary, notes)


def weights_from_variables(
    variables: Mapping[str, np.ndarray], model_type: str, origin: str
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Rename variables, and turn the kernels of dense layers, (in, out), round to (out, in).

    Returns:
        Parameters by Hugging Face's names, and the names of the optimizer's variables.

    Raises:
        UserError: a variable is of no known name.
    """
    weights, ignored = {}, []
    for name, value in sorted(variables.items()):
        plain = name.removeprefix("module/")
        if _NOT_WEIGHTS.search(plain):
            ignored.append(name)
            continue
        translated = _translate(plain, model_type)
        if translated is None:
            raise UserError(f"{origin}: {name} is no variable of a {model_type} model that is known here")
        turned = value.T if plain.endswith("/kernel") else value
        weights[translated] = torch.from_numpy(np.array(turned, order="C"))
    return weights, ignored


def _translate(variable: str, model_type: str) -> str | None:
    module, _, last = variable.rpartition("/")
    kind = _KINDS.get(last)
    for pattern, name in (*FAMILIES[model_type].tensorflow_names, *_SHARED):
        match = re.fullmatch(pattern, module if kind else variable)
        if match:
            found = match.expand(name.format(family=model_type)).replace("/", ".")
            return f"{found}.{kind}" if kind else found
    return None


def _find_config(folder: Path) -> tuple[Path, str]:
    files = {family.tensorflow_config: name for name, family in FAMILIES.items() if family.tensorflow_config}
    for file, model_type in files.items():
        if (folder / file).is_file():
            return folder / file, model_type
    raise UserError(f"{folder}: has neither {' nor '.join(files)}, which say what the checkpoint is of")


def _read_fields(path: Path, model_type: str) -> dict[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds a {type(data).__name__}, a model configuration is a JSON object")
    return FAMILIES[model_type].tensorflow_fields(data)


def _find_checkpoint(source: Path) -> Path:
    if Path(f"{source}.index").is_file():
        return source
    if not source.is_dir():
        raise UserError(f"{source}: no such folder, and no checkpoint: there is no {source.name}.index")
    found = sorted(path.with_suffix("") for path in source.glob("*.index"))
    preferred = [prefix for prefix in found if prefix.name in _PREFERRED]
    if len(found) != 1 and len(preferred) != 1:
        names = ", ".join(prefix.name for prefix in found) or "none"
        raise UserError(f"{source}: needed is one checkpoint (*.ckpt*.index), found {names}; name one as SOURCE")
    return found[0] if len(found) == 1 else preferred[0]


def _read_variables(prefix: Path) -> dict[str, np.ndarray]:
    try:
        from tensorflow import train
    except ImportError:
        raise UserError(
            f"{prefix}: reading it takes TensorFlow, which is not installed; pip install 'ds_bert[tensorflow]'"
        ) from None
    try:
        reader = train.load_checkpoint(str(prefix))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except Exception as error:  # TensorFlow raises kinds of its own, and plain RuntimeError
        raise UserError(f"{prefix}: not a TensorFlow checkpoint, or damaged: {str(error).splitlines()[0]}") from None


def _labels(weights: Mapping[str, torch.Tensor], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The number of labels of a fine-tuned model, which its configuration does not have."""
    classifier = weights.get("classifier.weight")
    return {} if classifier is None or "num_labels" in fields else {"num_labels": classifier.shape[0]}
