"""8-bit block layers: number formats, calibration on generated tokens, and which layers are left alone."""
