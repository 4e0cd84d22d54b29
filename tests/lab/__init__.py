"""The lab: a LAN, the gateway and an Internet in network namespaces, with real programs on every side."""
