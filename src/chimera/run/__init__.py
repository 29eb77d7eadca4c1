"""The composition root: settings, engines by URL, read and write heads, processes."""
