"""Everything that leans on private names of Keras or TensorFlow, and nothing else."""
