"""The lab itself: its settings, its local servers, and what may be wrong with them."""
