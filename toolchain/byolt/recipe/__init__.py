"""What a recipe may say, how one is read, and what each of its keys means.

Reading order: ``schema`` (every key), ``section`` (what a section is made of), ``methods`` (the `method` section),
``load`` (YAML and overrides to a frozen recipe), ``explain``.
"""
