"""Parts as pure JAX functions: KIND/NAME.py is the twin of the part KIND=NAME.

Arrays and a dict of weights in, an array out. Twins are written from the
papers' formulas and not from the parts in torch, so that tests have a second
reference. `components KIND NAME --jax` shows one below its part; nothing else
in the lab needs them, or JAX.
"""
