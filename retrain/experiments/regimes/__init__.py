"""The suite of regimes: what the continuous run saves by default, on many kinds of data, networks and drops."""
