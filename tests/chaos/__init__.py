"""Short runs, harmed in every way that `docs/reliability.md` lists, and an audit of what is left in their stores."""
