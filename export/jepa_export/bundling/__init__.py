"""Writing bundles: graphs, golden outputs, manifest, report; a bundle appears whole or not at all."""
