"""PyTorch reference of HierAmp: the published computation, its checkpoints, its training.

Shape suffixes used throughout:

====  =====================================================================
B     images of a batch
R     rows of the transformer, 2B: conditional rows first, then unconditional
l     tokens of the scale at hand (patches a side, squared)
L     tokens of all scales together
K     scales
C     transformer width
H     attention heads
D     channels a head, C / H
V     codebook entries
z     channels of the VQVAE latent
P     side of the latent, the last scale's patches a side
h w   rows and columns of a feature map
====  =====================================================================
"""
