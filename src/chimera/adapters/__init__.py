"""One file per engine. Only the composition root (`chimera.engines`) names them."""
