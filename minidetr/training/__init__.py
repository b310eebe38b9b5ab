"""Training: read options, matching, losses, objective, loop. `minidetr.train` is `minidetr.training.loop.train`."""
