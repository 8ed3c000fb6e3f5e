//! Networks in namespaces on one machine.
