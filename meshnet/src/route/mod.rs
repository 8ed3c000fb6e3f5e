//! Link-state database, shortest paths, and the forwarding table.
