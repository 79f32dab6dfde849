"""The regime suite. It measures the savings of the default recipe in many regimes.

A regime is a data set, a network, and the order in which the images arrive as drops.
"""
