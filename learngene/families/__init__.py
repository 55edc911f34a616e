"""Families of architectures, and ancestors of any library: build them, find their layers, open them."""
