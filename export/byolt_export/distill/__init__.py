"""INT8 that learns: the quantised encoder is trained to give what the encoder gives. Needs torch."""
