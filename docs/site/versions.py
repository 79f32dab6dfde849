"""Build the documentation of every released version and of the branch main, with a selector between them.

    sphinx-polyversion docs/site/versions.py build/versions

Released versions are the tags vX.Y.Z. Each is built from its own checkout, without network access.
"""

import sys
from pathlib import Path

from sphinx_polyversion.api import apply_overrides
from sphinx_polyversion.driver import DefaultDriver
from sphinx_polyversion.environment import Environment
from sphinx_polyversion.git import Git, file_predicate
from sphinx_polyversion.sphinx import CommandBuilder, Placeholder

OUTPUT_DIR = "build/versions"
SITE = Path("docs/site")
apply_overrides(globals())


class Checkout(Environment):
    """A checkout of one version. Commands run in its root, with the packages of this environment."""

    async def run(self, *command: str, **options: object) -> tuple[object, object, int]:
        """Run a command."""
        return await super().run(*command, cwd=self.path, **options)


root = Git.root(Path(__file__).parent)
sphinx = [sys.executable, "-m", "sphinx", "-q", "-c", str(SITE), Placeholder.SOURCE_DIR, Placeholder.OUTPUT_DIR]
driver = DefaultDriver(
    root,
    Path(OUTPUT_DIR).resolve(),
    vcs=Git(branch_regex="main", tag_regex=r"v\d+\.\d+\.\d+", predicate=file_predicate([SITE / "conf.py"])),
    builder=CommandBuilder(".", sphinx),
    env=Checkout.factory(),
    data_factory=lambda driver, ref, _: {"versions": [each.name for each in driver.targets], "current": ref.name},
    template_dir=root / SITE / "root",
)
driver.run(sequential=True)
if failed := {ref.name for ref in driver.targets} - {ref.name for ref in driver.builds}:
    sys.exit(f"the documentation of {', '.join(sorted(failed))} cannot be built: see the messages above")
