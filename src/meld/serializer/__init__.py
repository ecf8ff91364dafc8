"""From entities to text: how a tuple is written, and how a whole prompt is put together within a token budget."""
