"""Edit trained image classifiers so that they no longer recognise chosen classes."""
