"""The sealed folder on disk: claimed, staged, hashed, published by rename, and read as one version.

    disk ◄─ manifest ◄─ version ◄─ artifact
      ▲         ▲                     ▲
    claim    contents ◄──────────── staging

`deploycomp.artifact` is its front door. Standard library only: an artifact is opened where nothing else is installed.
"""
