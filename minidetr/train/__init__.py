"""Training: read options, matching, losses, objective, loop. `minidetr.train(...)` itself is `minidetr.train.loop.train`."""

import sys
from types import ModuleType


class CallableModule(ModuleType):
    """`minidetr.train` is both this package and what a notebook calls; nothing heavy is imported until it does."""

    def __call__(self, *arguments, **options):
        """See `minidetr.train.loop.train`."""
        from minidetr.train.loop import train

        return train(*arguments, **options)


sys.modules[__name__].__class__ = CallableModule
