"""Views: events folded into documents, read by key, built anew beside the one that serves."""
