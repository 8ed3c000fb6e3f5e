//! No tunnel at all: the yardstick.

use super::{Daemons, Running, System};
use crate::rig::{Rig, Shape};
use std::time::Instant;

/// The veth cable itself; relays are kernel routers.
#[derive(Debug)]
pub struct Raw;

impl System for Raw {
    fn name(&self) -> &str {
        "raw veth"
    }

    fn description(&self) -> String {
        "no tunnel; \"relays\" forward in the kernel".to_owned()
    }

    fn can(&self, _: Shape) -> bool {
        true
    }

    fn start(&self, rig: &Rig) -> anyhow::Result<Running> {
        let started = Instant::now();
        let last = rig.machines().len() - 1;
        let row = if rig.shape().spokes == 0 { rig.machines() } else { &[] };
        for (number, machine) in row.iter().enumerate() {
            if rig.is_relay(number) {
                machine.sysctl("net.ipv4.ip_forward", "1")?;
            }
            if number < last {
                let next = rig.address_towards(number + 1, number);
                machine.ip(&format!("route append {}/32 via {next}", rig.last_address()))?;
            }
            if number > 0 {
                let before = rig.address_towards(number - 1, number);
                machine.ip(&format!("route append {}/32 via {before}", rig.address_towards(0, 1)))?;
            }
        }
        let near = rig.addresses(0)[0].into();
        Ok(Running { near, far: rig.last_address(), started, pids: Vec::new(), daemons: Daemons::Kernel })
    }
}
