"""Run short scenarios of tasks under every fault that `docs/reliability.md` lists, and audit their stores."""
