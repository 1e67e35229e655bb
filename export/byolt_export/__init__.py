"""Deliver an encoder: ``nn.Module`` to ONNX, to a bundle, to a verdict that can fail.

Reading order: ``deliver`` (module in, proven bundle out), ``graph`` (module to ONNX), ``bundle`` (the delivered
folder), ``runtime`` (run it), ``parity`` (is it the same function?), ``verify`` (ask again, on any machine).
Everything but ``graph`` imports without torch. Nothing here imports ``byolt``.
"""

import os

# From 1.29 on, ONNX Runtime reports its use to Microsoft and keeps an identifier of the device, unless this is set
# before it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
