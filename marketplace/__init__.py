"""The reference marketplace: six services after the pages that Fiverr describes, on Chimera."""
