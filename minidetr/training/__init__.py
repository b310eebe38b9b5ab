"""Training: read options, matching, losses, objective, loop, step. `minidetr.train` is `minidetr.training.loop.train`."""
