"""Independent streams of random numbers from one seed."""

import hashlib

import torch


def derive(seed: int, stream: str, number: int = 0) -> int:
    """Return a 32-bit seed for a named stream: unrelated streams for any two (stream, number)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}/{number}".encode()).digest()[:4])


def generator(seed: int, stream: str, number: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator for a named stream on a device."""
    return torch.Generator(device).manual_seed(derive(seed, stream, number))
