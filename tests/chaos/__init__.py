"""Run short lives of tasks under every fault that `docs/reliability.md` lists, and audit their stores."""
