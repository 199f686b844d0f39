"""Annotation with the network in the loop: scans, masks in versions, a server, training on."""
