"""fp16's loss scale: as large as the gradients allow."""

from ds_bert.engine.settings import LossScaling


class LossScaler:
    """Dynamic loss scale of fp16 (Micikevicius et al. 2018, section 3.2): the same on all processes, step by step."""

    def __init__(self, settings: LossScaling) -> None:
        self.fixed = settings.fixed > 0
        self.scale = settings.fixed or settings.initial
        self.window, self.minimum = settings.window, settings.minimum
        self.good_steps = 0

    def update(self, overflowed: bool) -> None:
        """Take note of a step: halve the scale after an overflow, double it after ``window`` steps without one."""
        if self.fixed:
            return
        self.good_steps = 0 if overflowed else self.good_steps + 1
        if overflowed:
            self.scale = max(self.scale / 2, self.minimum)
        elif self.good_steps == self.window:
            self.scale, self.good_steps = self.scale * 2, 0
