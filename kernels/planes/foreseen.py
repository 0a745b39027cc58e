"""What coarse products foresee of neurons, in Triton: the formulas of coarse.py, as cpp/foresee_body.h has them."""

# Triton types arguments by what they are called with.
# mypy: disable-error-code="no-untyped-def"

from ..activations import activate
from ..jit import constant, constexpr, jit, tl

_ROOT = constant(0.3535533905932738)  # of an eighth
_DENSITY = constant(0.3989422804014327)  # 1 / sqrt(2 pi)
_LEAST = constant(1e-20)
_FAR = constant(15.0)


@jit
def foreseen(z, error, ACTIVATION: constexpr):
    """(value, deviation) of act(z) where z is normal about its coarse value, fp32."""
    if ACTIVATION == "relu":
        known = error <= _LEAST
        t = tl.div_rn(z, tl.where(known, 1.0, error) + tl.zeros_like(z))
        below, density = normal_below(t), _density(t)
        mean = error * (t * below + density)
        mean = tl.where(mean < 0, 0.0, mean)
        variance = error * error * ((t * t + 1.0) * below + t * density) - mean * mean
        value = tl.where(known, activate(z, "relu"), mean)
        deviation = tl.where(known | (variance < 0), 0.0, tl.sqrt_rn(tl.where(variance < 0, 0.0, variance)))
    elif ACTIVATION == "silu":
        s = tl.sigmoid(z)
        value, deviation = z * s, tl.abs(s * (1.0 + z * (1.0 - s))) * error
    else:
        value, deviation = activate(z, ACTIVATION), tl.abs(normal_below(z) + z * _density(z)) * error
    return value, deviation


@jit
def normal_below(t):
    """The distribution function of the normal distribution: cpp/activation.h, normal_tail."""
    z = tl.abs(t)
    u = 1.0 / (1.0 + _ROOT * z)
    p = 0.15311418088325311 * u - 0.72491220166395709
    p = p * u + 1.259149595131507
    p = p * u - 0.83051062607288037
    p = p * u + 0.028797035841980672
    p = p * u - 0.05548053843634198
    p = p * u + 0.053437193598796202
    p = p * u + 0.38280908954309904
    p = p * u + 0.99906485691581522
    p = p * u - 1.9586157126726431
    tail = tl.where(z > _FAR, 0.0, u * tl.exp(p - 0.5 * z * z))  # NaN is not greater
    return tl.where(t < 0, tail, 1.0 - tail)


@jit
def _density(t):
    return _DENSITY * tl.exp(-0.5 * t * t)
