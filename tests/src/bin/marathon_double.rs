//! The stand-in for Mesos, Marathon, and others, as a program: what it is and is not is said in `stack::marathon_double`.

fn main() {
    meshnet_tests::stack::marathon_double::play();
}
