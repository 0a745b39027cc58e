"""What a model with a classifier makes of a text's state: logits of labels."""

from torch import Tensor
from torch.nn import functional

from .linear import LINEARS, TensorModule
from .spec import DENSE, ClassifierSpec

_ACTIVATIONS = {"tanh": lambda x: x.tanh(), "relu": functional.relu}


class Classifier(TensorModule):
    """logits [texts, labels] = output(act(dense(x))) of states x [texts, hidden]; output(x) where there is no dense."""

    def __init__(self, hidden_size: int, spec: ClassifierSpec) -> None:
        super().__init__()
        self.spec = spec
        self.dense = None if spec.dense == "none" else LINEARS[DENSE](hidden_size, hidden_size, True)
        self.output = LINEARS[DENSE](hidden_size, spec.labels, spec.bias)

    def forward(self, states: Tensor) -> Tensor:
        if self.dense is not None:
            states = _ACTIVATIONS[self.spec.dense](self.dense(states))
        return self.output(states)
