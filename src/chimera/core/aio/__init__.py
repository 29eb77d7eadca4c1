"""Small asyncio pieces: many callers in one call, waking who waits, ending tasks, doing things again."""
