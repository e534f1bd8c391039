"""The sampling operator with a body for GPUs: it looks for a token in two levels, groups first.

ONNX Runtime's CumSum on CUDA adds all that is before an element anew for each one, which took 14 ms of a step of
32 images over 4,096 codes. Here the longest sum is that over a group.
"""

import math

import onnx

from hieramp.export.operators import operator

# As the portable body: ties with the k-th stay, top-p keeps a token if the mass above it is below top_p, −1 is drawn
# where logits are not finite. The target within a group ends short of its mass, which another order of adding could
# put it past, so that what is drawn always has some. Sums along a row are slow where they have to be the same in every
# run; a product is not, and shows NaN and infinity as well.
_BODY = """
SampleTopKTopP (conditional, unconditional, guidance, uniform, top_k, top_p) => (token)
{{
  one = Constant <value = float[1] {{1}}> ()
  last = Constant <value = int64[1] {{-1}}> ()
  begin = Constant <value = int64[1] {{0}}> ()
  end = Constant <value = int64[1] {{9223372036854775807}}> ()
  axis = Constant <value = int64 {{-1}}> ()
  nothing = Constant <value = float[1] {{0}}> ()
  conditional_f = Cast <to = 1> (conditional)
  unconditional_f = Cast <to = 1> (unconditional)
  strength = Add (guidance, one)
  pulled = Mul (conditional_f, strength)
  pushed = Mul (unconditional_f, guidance)
  logits = Sub (pulled, pushed)
  ordered, order = TopK <axis = -1, largest = 1, sorted = 1> (logits, top_k)
  index1 = Constant <value = int64[1] {{1}}> ()
  peak = Slice (ordered, begin, index1, last)
  kth = Slice (ordered, last, end, last)
  shifted = Sub (logits, peak)
  mass = Exp (shifted)
  survives = GreaterOrEqual (logits, kth)
  surviving = Where (survives, mass, nothing)
  norm = ReduceSum <keepdims = 1> (surviving, last)
  ordered_shifted = Sub (ordered, peak)
  ordered_mass = Exp (ordered_shifted)
  probability = Div (ordered_mass, norm)
  above = CumSum <exclusive = 1> (probability, axis)
  beyond = Constant <value = float[1] {{2}}> ()
  all = GreaterOrEqual (top_p, one)
  limit = Where (all, beyond, top_p)
  kept = Less (above, limit)
  huge = Constant <value = float[1] {{3.4028235e38}}> ()
  kept_logits = Where (kept, ordered, huge)
  threshold = ReduceMin <keepdims = 1> (kept_logits, last)
  stays = GreaterOrEqual (logits, threshold)
  weight = Where (stays, surviving, nothing)
  in_groups = Constant <value = int64[4] {{0, 0, {groups}, {size}}}> ()
  grouped = Reshape (weight, in_groups)
  group_mass = ReduceSum <keepdims = 0> (grouped, last)
  group_cdf = CumSum (group_mass, axis)
  total = Slice (group_cdf, last, end, last)
  uniform_column = Unsqueeze (uniform, last)
  target = Mul (uniform_column, total)
  passed_groups = LessOrEqual (group_cdf, target)
  passed_groups_f = Cast <to = 1> (passed_groups)
  full = ReduceSum <keepdims = 1> (passed_groups_f, last)
  last_group = Constant <value = float[1] {{{last_group}}}> ()
  group_f = Min (full, last_group)
  group = Cast <to = 7> (group_f)
  group_before = CumSum <exclusive = 1> (group_mass, axis)
  before = GatherElements <axis = -1> (group_before, group)
  members = GatherND <batch_dims = 2> (grouped, group)
  cdf = CumSum (members, axis)
  own = Slice (cdf, last, end, last)
  short = Constant <value = float[1] {{0.99999994}}> ()
  most = Mul (own, short)
  beyond_before = Sub (target, before)
  within = Min (beyond_before, most)
  passed = LessOrEqual (cdf, within)
  passed_f = Cast <to = 1> (passed)
  ahead = ReduceSum <keepdims = 1> (passed_f, last)
  size = Constant <value = float[1] {{{size}}}> ()
  group_first = Mul (group_f, size)
  drawn_f = Add (group_first, ahead)
  drawn_column = Cast <to = 7> (drawn_f)
  drawn = Squeeze (drawn_column, last)
  every_code = Constant <value = int64[2] {{{codes}, 1}}> ()
  shrinks = ConstantOfShape <value = float[1] {{1.52587890625e-05}}> (every_code)
  sum_column = MatMul (logits, shrinks)
  sum = Squeeze (sum_column, last)
  spread = Abs (sum)
  infinite = Constant <value = float[1] {{3.3e38}}> ()
  is_finite = Less (spread, infinite)
  none = Constant <value = int64[1] {{-1}}> ()
  token = Where (is_finite, drawn, none)
}}
"""


def sample_in_two_levels(vocab_size: int) -> onnx.FunctionProto:
    """SampleTopKTopP for logits [B, l, V] of that many codes."""
    size = group_size(vocab_size)
    groups = vocab_size // size
    return operator(_BODY.format(codes=vocab_size, groups=groups, size=size, last_group=groups - 1))


def group_size(vocab_size: int) -> int:
    """Codes a group: the divisor that makes the longer of the two searches shortest."""
    divisors = (n for n in range(1, vocab_size + 1) if vocab_size % n == 0)
    return min(divisors, key=lambda n: abs(math.log(n) - math.log(vocab_size) / 2))
