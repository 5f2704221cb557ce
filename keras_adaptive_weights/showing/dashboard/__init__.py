"""The Adaptive Weights dashboard: a TensorBoard plugin. Imports neither TensorFlow nor Keras."""
