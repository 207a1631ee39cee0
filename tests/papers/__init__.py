"""What the papers say, in slow numpy: one file for each method, written to be read beside its paper.

Nothing here is imported from what is tested, nor from torch. ``network.py`` and ``transformer.py``
are what is trained, ``tape.py`` has what is drawn, ``protocols.py`` is of tasks. Each other file has

- ``CASES``: spellings of the method, between them all branches of its formula;
- ``loss(net, x, y, tape, method)``: its loss, a number, on images (b, 3, h, w) and targets (b, c) in
  double precision. ``net`` is a network of numpy's, ``method`` is asked for its fields alone. What
  is random is taken from ``tape``, by name and law; what has no gradient passes through ``tape.detached``;
- ``DRAWS``, where the method has functions that draw for it alone: their whole paths;
- ``SOFT = False``, where targets have to be labels;
- ``SIZE``, where images of 8 x 8 pixels would not show all: their height and width.

``test_fidelity.py`` compares it with the method: what logits are compared with what targets, the
loss, and its slope along random directions of the images and of all parameters.
"""
