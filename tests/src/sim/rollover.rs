//! Whoever has the authority's key, replacing it.

use std::time::Duration;

use meshnet::membership::AuthoritySecret;
use meshnet::node::{Rollover, Stage, Work};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::world::{MachineId, World};

/// How often it looks whether it can go on.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A roll-over that a machine drives.
pub struct Roller {
    /// Where the keys are.
    pub machine: MachineId,
    /// What takes the place of what.
    pub rollover: Rollover,
    target: [u8; 32],
    leaving: Option<[u8; 32]>,
    /// Steps that changed something.
    pub steps: u32,
}

impl Roller {
    /// From `leaving` to `target`, for ever if need be.
    pub fn new(machine: MachineId, target: &AuthoritySecret, leaving: Option<&AuthoritySecret>) -> Roller {
        Roller {
            machine,
            rollover: Rollover {
                target: target.public(),
                leaving: leaving.map(AuthoritySecret::public),
                deadline_s: u64::MAX,
                without: Vec::new(),
            },
            target: *target.to_bytes(),
            leaving: leaving.map(|leaving| *leaving.to_bytes()),
            steps: 0,
        }
    }

    /// The same the other way round.
    pub fn abort(&mut self) {
        let leaving = self.leaving.replace(self.target).expect("there is a way back");
        self.target = leaving;
        self.rollover.leaving = Some(self.rollover.target);
        self.rollover.target = AuthoritySecret::from_bytes(&leaving).public();
    }

    /// How far it is.
    pub fn stage(&self, world: &World) -> Stage {
        let machine = world.machine(self.machine);
        let now = machine.now(world.elapsed().as_micros() as u64);
        machine.node().expect("it runs").rollover_stage(now, &self.rollover)
    }

    /// Does what there is to do.
    ///
    /// # Panics
    /// When a step cannot be done.
    pub fn step(&mut self, world: &mut World) -> Stage {
        let target = AuthoritySecret::from_bytes(&self.target);
        let leaving = self.leaving.as_ref().map(AuthoritySecret::from_bytes);
        let (rollover, steps) = (&self.rollover, &mut self.steps);
        world.ask(self.machine, |node, now| {
            let mut rng = StdRng::seed_from_u64(u64::from(*steps));
            let work = node.rollover_work(now, rollover, &target, leaving.as_ref(), &mut rng);
            match work.expect("it can go on") {
                Work::Bundle(bundle) => {
                    assert_eq!(node.add_bundle(now, bundle), Ok(true));
                    *steps += 1;
                }
                Work::Objects(certificates, revocations) => {
                    for certificate in certificates {
                        node.add_certificate(now, certificate.signed().clone(), None).expect("it is newer");
                    }
                    for revocation in revocations {
                        node.add_revocation(now, revocation).expect("it verifies");
                    }
                    *steps += 1;
                }
                Work::Wait | Work::Settle | Work::Done => {}
            }
            node.rollover_stage(now, rollover)
        })
    }

    /// Goes on until a stage is reached.
    ///
    /// # Panics
    /// When that takes longer than `limit`.
    pub fn run_until(&mut self, world: &mut World, stage: Stage, limit: Duration) -> Duration {
        let mut passed = Duration::ZERO;
        while self.step(world) < stage {
            if passed >= limit {
                let at = self.stage(world);
                world.fail(&format!("the roll-over hangs at {at:?}, and not at {stage:?}"));
            }
            world.run_for(LOOK_EVERY);
            passed += LOOK_EVERY;
        }
        passed
    }
}
