"""Sessions side by side: what they add to a request, in CPU and in time."""
