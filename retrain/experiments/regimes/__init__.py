"""The suite of regimes: it measures what the default recipe saves on many kinds of data, networks and drops."""
