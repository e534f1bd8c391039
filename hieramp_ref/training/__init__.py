"""Training of the three stages (VQVAE, VAR, HierAmp): resumable, from one seed, on a CPU or one GPU."""
