"""From a configuration to a run: the loop, the learning rate, the checkpoint schedule."""
