"""Where bundles come from, how they are built and proved."""
