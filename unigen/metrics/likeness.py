"""What the metrics that ask the mini judge share. Shapes: N items, C = 3 channels, H and W pixels."""

from collections.abc import Mapping

from unigen.judge import Judge, judge_protocol, load_judge


class Judged:
    """A cosine of the mini judge's embeddings; a subclass says which, in `compares`.

    `judge` is "shipped:NAME" or a folder that `unigen.judge.Judge` was saved in, read at the first use.
    """

    name: str
    compares: str
    better = "higher"
    against = "truth"

    def __init__(self, judge: str) -> None:
        self.source = judge

    @property
    def protocol(self) -> Mapping[str, str]:
        """Names the judge by its weights. Raises ValueError if they are absent."""
        return judge_protocol(self.source, self._key, self.compares)

    @property
    def judge(self) -> Judge:
        """Raises ValueError if its weights are absent."""
        return load_judge(self.source, self._key)

    @property
    def _key(self) -> str:
        return f"metric.{self.name}.judge"
