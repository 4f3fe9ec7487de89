"""Published models in plain PyTorch: what the package is tested and timed against.

One module a published repository, with the names and attributes by which
`trajgru_ext.accelerate` finds its classes, in our own words. What several of them share
is in `updates` (the gates) and `warp`; `blocks` has those that papers define. No module
here uses an operator of the package, and the package imports none of them.
"""
