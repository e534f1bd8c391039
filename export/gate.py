"""The parity gate of an export: the plan against the reference, with the reference's tokens forced.

Sampling is discontinuous, so logits are compared scale by scale on equal tokens, and the image that they decode to.

The thresholds on logits: fp32 leaves only the order of summation, measured near 1e-5, and must stay below 1e-3. A 16-bit
product is off by half a unit in the last place, 2^-11 of its size in fp16 and 2^-8 in bf16; over the two roundings of each
of 2d branches these add up like a random walk. With logits of size S the expected maximum over many is about
4 S 2^-p sqrt(4 d), which is what the gate allows (p = 11 or 8); images must keep 40 dB in fp16 and 30 dB in bf16.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hieramp.export.bfloat16 import emulated_plan
from hieramp.export.errors import ParityError
from hieramp.runtime import Drawing, OnnxRuntimeBackend, Plan, draw_batch, resolve_settings
from hieramp.runtime.backend import StepInputs
from hieramp.runtime.manifest import Parity
from hieramp.runtime.uniforms import token_uniforms
from hieramp_ref.generate import Trace, generate
from hieramp_ref.settings import Settings
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae
