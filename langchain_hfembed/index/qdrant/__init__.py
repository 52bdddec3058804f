"""An index in Qdrant: in this process, on a server, or in a cluster."""
