"""What is imported once, before ranks are forked: all of ds_bert, and what it imports where it is needed."""

import gc
import importlib
import pkgutil

import ds_bert

LATER = (
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "scipy.stats",
    "sklearn.metrics",
    "torch.utils.tensorboard",
    "transformers.convert_slow_tokenizer",
    "transformers.hf_argparser",
    "transformers.models.albert.modeling_albert",
    "transformers.models.bert.modeling_bert",
)
for name in (*LATER, *(module.name for module in pkgutil.walk_packages(ds_bert.__path__, "ds_bert."))):
    importlib.import_module(name)
# A rank's garbage collections pass over what is here for good: half a million objects.
gc.collect()
gc.freeze()
