"""What is imported once, before ranks are forked: all of ds_bert, and what it imports where it is needed."""

import gc
import importlib
import pkgutil

import transformers.convert_slow_tokenizer
import transformers.hf_argparser
import transformers.models.albert.modeling_albert
import transformers.models.bert.modeling_bert  # noqa: F401

import ds_bert

for module in pkgutil.walk_packages(ds_bert.__path__, "ds_bert."):
    importlib.import_module(module.name)
# A rank's garbage collections pass over what is here for good: half a million objects.
gc.collect()
gc.freeze()
