"""One file a method, all with the small protocol of ``methods.byol.Byol``."""
