"""The two custom operators, each with a body of standard operators (ONNX domain `hieramp`, version 1).

A back end with a kernel of its own for an operator uses it; every other one runs the body.
"""

import onnx
from onnx import helper, parser

from hieramp.export.graph import DOMAIN, OPSET

# Selection by rank: a position's rank is how many are larger, or equal with a lower index. Exact, and free of sorting.
_SALIENCY_BIAS = """
SaliencyBias (class_query, keys, beta, select_count) => (bias, saliency)
{
  query_f = Cast <to = 1> (class_query)
  keys_f = Cast <to = 1> (keys)
  keys_t = Transpose <perm = [0, 1, 3, 2]> (keys_f)
  logits = MatMul (query_f, keys_t)
  attention = Softmax <axis = -1> (logits)
  axis1 = Constant <value = int64[1] {1}> ()
  axis2 = Constant <value = int64[1] {2}> ()
  last = Constant <value = int64[1] {-1}> ()
  head_mean = ReduceMean <keepdims = 0> (attention, axis1)
  saliency = ReduceSum <keepdims = 0> (head_mean, axis1)
  column = Unsqueeze (saliency, last)
  row = Unsqueeze (saliency, axis1)
  larger = Greater (row, column)
  equal = Equal (row, column)
  zero = Constant <value = int64 {0}> ()
  one = Constant <value = int64 {1}> ()
  count = Shape <start = 1, end = 2> (saliency)
  count0 = Squeeze (count)
  index = Range (zero, count0, one)
  axis0 = Constant <value = int64[1] {0}> ()
  index_row = Unsqueeze (index, axis0)
  index_column = Unsqueeze (index, last)
  lower = Less (index_row, index_column)
  tie_before = And (equal, lower)
  before = Or (larger, tie_before)
  before_i = Cast <to = 7> (before)
  rank = ReduceSum <keepdims = 0> (before_i, last)
  selected = Less (rank, select_count)
  selected_f = Cast <to = 1> (selected)
  raised = Mul (selected_f, beta)
  axes = Constant <value = int64[2] {1, 2}> ()
  bias = Unsqueeze (raised, axes)
}
"""

# A scale without a class token has none to sum over. The sum over a row of zeros beside what there is is the same, and
# ONNX Runtime's kernel for CUDA refuses to sum over nothing.
_SUM = "  saliency = ReduceSum <keepdims = 0> (head_mean, axis1)\n"
_SUM_OF_ANY = """  rows = Shape <start = 0, end = 1> (head_mean)
  positions = Shape <start = 2, end = 3> (head_mean)
  zero_shape = Concat <axis = 0> (rows, axis1, positions)
  zeros = ConstantOfShape (zero_shape)
  with_zeros = Concat <axis = 1> (head_mean, zeros)
  saliency = ReduceSum <keepdims = 0> (with_zeros, axis1)
"""

# Top-k keeps ties with the k-th; top-p keeps a token if the mass strictly above it is below top_p (top_p 1 keeps all).
# A sum of finite logits is finite once they are scaled down, and a sum with NaN or infinity is not. The limit is far
# above any such sum, and stays finite where a back end rounds it to bfloat16.
_SAMPLE_TOP_K_TOP_P = """
SampleTopKTopP (conditional, unconditional, guidance, uniform, top_k, top_p) => (token)
{
  conditional_f = Cast <to = 1> (conditional)
  unconditional_f = Cast <to = 1> (unconditional)
  one = Constant <value = float[1] {1}> ()
  strength = Add (guidance, one)
  pulled = Mul (conditional_f, strength)
  pushed = Mul (unconditional_f, guidance)
  logits = Sub (pulled, pushed)
  last = Constant <value = int64[1] {-1}> ()
  ordered, order = TopK <axis = -1, largest = 1, sorted = 1> (logits, top_k)
  peak = ReduceMax <keepdims = 1> (ordered, last)
  kth = ReduceMin <keepdims = 1> (ordered, last)
  shifted = Sub (logits, peak)
  mass = Exp (shifted)
  survives = GreaterOrEqual (logits, kth)
  nothing = Constant <value = float[1] {0}> ()
  surviving = Where (survives, mass, nothing)
  norm = ReduceSum <keepdims = 1> (surviving, last)
  ordered_shifted = Sub (ordered, peak)
  ordered_mass = Exp (ordered_shifted)
  probability = Div (ordered_mass, norm)
  axis = Constant <value = int64 {-1}> ()
  above = CumSum <exclusive = 1> (probability, axis)
  beyond = Constant <value = float[1] {2}> ()
  all = GreaterOrEqual (top_p, one)
  limit = Where (all, beyond, top_p)
  kept = Less (above, limit)
  huge = Constant <value = float[1] {3.4028235e38}> ()
  kept_logits = Where (kept, ordered, huge)
  threshold = ReduceMin <keepdims = 1> (kept_logits, last)
  stays = GreaterOrEqual (logits, threshold)
  weight = Where (stays, surviving, nothing)
  cdf = CumSum (weight, axis)
  total = ReduceMax <keepdims = 1> (cdf, last)
  uniform_column = Unsqueeze (uniform, last)
  target = Mul (uniform_column, total)
  passed = LessOrEqual (cdf, target)
  passed_i = Cast <to = 7> (passed)
  drawn = ReduceSum <keepdims = 0> (passed_i, last)
  shrink = Constant <value = float[1] {1.52587890625e-05}> ()
  scaled = Mul (logits, shrink)
  sum = ReduceSum <keepdims = 0> (scaled, last)
  size = Abs (sum)
  infinite = Constant <value = float[1] {3.3e38}> ()
  is_finite = Less (size, infinite)
  none = Constant <value = int64[1] {-1}> ()
  token = Where (is_finite, drawn, none)
}
"""


def saliency_bias(everywhere: bool = True) -> onnx.FunctionProto:
    """SaliencyBias: class query [R, H, c, D], keys [R, H, l, D], beta [1], select_count [1] → bias, saliency.

    The bias [R, 1, 1, l] is beta at the most salient positions; saliency [R, l] is the map itself. With c = 0 class
    tokens the map is zero; `everywhere` says that every scale has one.
    """
    return operator(_SALIENCY_BIAS if everywhere else _SALIENCY_BIAS.replace(_SUM, _SUM_OF_ANY))


def sample_top_k_top_p() -> onnx.FunctionProto:
    """SampleTopKTopP: two logits [B, l, V], guidance [1], uniform [B, l], top_k [1], top_p [1] → token [B, l].

    The token is −1 where NaN or infinity is among the guided logits: nothing can be drawn from those.
    """
    return operator(_SAMPLE_TOP_K_TOP_P)


def operator_bodies(everywhere: bool = True) -> list[onnx.FunctionProto]:
    """Both operators; `everywhere` as of `saliency_bias`."""
    return [saliency_bias(everywhere), sample_top_k_top_p()]


def operator(text: str) -> onnx.FunctionProto:
    """An operator of the domain by its name, inputs, outputs and nodes, in ONNX's own notation."""
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n'
    function = parser.parse_function(header + text)
    assert {opset.version for opset in function.opset_import} == {helper.make_opsetid("", OPSET).version}
    return function
