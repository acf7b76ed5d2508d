"""What is measured: a registry finds measures, ``scan`` and ``verify`` hold them."""
