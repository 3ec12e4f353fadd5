//! What is proved from outside: kernel, node, bench.
