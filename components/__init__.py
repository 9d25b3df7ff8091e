"""The lecture's parts in plain torch: importable by anyone, with no framework around them."""
