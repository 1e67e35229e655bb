"""Learn an image encoder from unlabelled images with BYOL, and measure what it learned.

Reading order, from the command to the maths: ``cli`` parses and calls; ``recipe`` turns YAML into a
frozen ``schema.Recipe``; ``training.loop`` is the run; ``methods.byol`` is the paper's section 3.
Beside them: ``data`` (images in), ``views`` (the two augmentations), ``networks`` (encoder and heads),
``evaluation`` (kNN, linear probe, fine-tune, collapse), ``run`` (the run's folder).
"""

__version__ = "0.1.0"
