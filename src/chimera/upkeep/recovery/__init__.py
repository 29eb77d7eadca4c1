"""Recovery: what an owner lost when its journal was put back, what others still hold of it, and how all is mended."""
