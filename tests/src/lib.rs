//! The simulator, and scenarios in network namespaces.
