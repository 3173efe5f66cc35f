"""Training data for PyTorch; everything here may import torch."""
