"""One file or folder per engine. Only the composition root (`chimera.run.engines`) names them."""
