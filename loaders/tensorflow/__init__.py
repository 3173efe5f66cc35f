"""Training data for TensorFlow; everything here may import tensorflow."""
