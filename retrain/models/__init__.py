"""Networks by name, and what computing them costs. Pure torch; imports recipe, config and utils alone."""
