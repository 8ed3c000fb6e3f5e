//! The small service of `stack::bell`, as a program.

fn main() {
    meshnet_tests::stack::bell::ring();
}
