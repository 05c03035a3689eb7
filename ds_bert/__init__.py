"""ds_bert: train BERT-family models as pipelines on DeepSpeed, cut and placed by a JSON stage map."""

__version__ = "0.2.0"
