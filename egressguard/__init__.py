"""EgressGuard: a mail egress appliance for edge routers."""

__version__ = "0.1.0"
