"""The operations that cost the time, as functions of tensors; parameters live in `nsr.fields`.

One folder per operation: `__init__` checks and dispatches, `reference` (torch, any device, any floating type) defines
the meaning and is what faster back ends are compared with. The back end is named explicitly; a missing one is an error.
"""
