"""TLS with other hosts: signed zones, certificates and mail hosts of every kind, and what the relay makes of them."""
