"""Helpers that several tests share: small trainings, servers, stores, browsers."""
