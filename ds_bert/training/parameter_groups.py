"""Learning rates by layer: the closer to the input, the lower."""

from dataclasses import dataclass, replace

from transformers import PretrainedConfig

from ds_bert.engine.settings import EngineSettings, ParameterGroup, by_dimensions
from ds_bert.modeling.families import encoder_part, family_of, is_embedding


@dataclass(frozen=True)
class LayerwiseDecay:
    """Scale learning rates by layer as ELECTRA's code does (Clark et al. 2020, google-research/electra).

    With decay d, the head has scale 1, encoder layer k of L (from 1) d^(L+2-k), and the embeddings d^(L+2): the last
    encoder layer has d^2, and no parameter d^1. Pooler and all else outside embeddings and encoder belong to the head;
    a word matrix that is tied to the head, to the embeddings.
    """

    decay: float
    num_layers: int

    def __call__(self, name: str, dimensions: int) -> ParameterGroup:
        """Return the group of the parameter that Hugging Face knows as ``name``."""
        depth = 0 if is_embedding(name) else self.num_layers + 2
        if part := encoder_part(name):
            depth = part[0] + 1
        return replace(by_dimensions(name, dimensions), lr_scale=self.decay ** (self.num_layers + 2 - depth))


def with_layerwise_decay(settings: EngineSettings, decay: float, config: PretrainedConfig) -> EngineSettings:
    """Give the parameters of each layer a learning rate of their own.

    Where encoder layers share their parameters, each group of them counts as one layer, however often it is passed
    through. With one group, the encoder has d^2 and the embeddings have d^3.

    Args:
        settings: of the engine.
        decay: `--layerwise_lr_decay`, more than 0 and at most 1, which changes nothing.
        config: the model.

    """
    if decay == 1.0:
        return settings
    num_layers = family_of(config).num_groups(vars(config))
    return replace(settings, parameter_group=LayerwiseDecay(decay, num_layers))
