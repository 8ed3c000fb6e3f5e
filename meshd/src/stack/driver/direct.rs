//! Each node's agent makes its own containers.

use super::{Driver, Order, Replica, Waiting};
use crate::stack::agent::Request;
use crate::stack::fleet::Fleet;

/// The agents.
pub struct Direct<'a> {
    /// How they are reached.
    pub fleet: &'a Fleet,
}

impl Driver for Direct<'_> {
    async fn place(&self, order: &Order<'_>, _: &mut Waiting<'_>) -> anyhow::Result<()> {
        let request = Request::Create {
            definition: Box::new(order.definition.clone()),
            founding: order.founding.to_vec(),
            members: order.members.clone(),
            keeps_id: order.keeps_id.to_vec(),
        };
        self.fleet.ask(order.node, &request).await?;
        Ok(())
    }

    async fn start(&self, replica: &Replica<'_>, _: &mut Waiting<'_>) -> anyhow::Result<()> {
        let (stack, container) = (replica.stack.to_owned(), replica.container.to_owned());
        self.fleet.ask(replica.node, &Request::Start { stack, container }).await?;
        Ok(())
    }

    async fn remove(&self, replica: &Replica<'_>, _: &mut Waiting<'_>) -> anyhow::Result<()> {
        let (stack, container) = (replica.stack.to_owned(), replica.container.to_owned());
        let request = Request::Remove { stack, container, grace_s: replica.grace_s };
        self.fleet.ask(replica.node, &request).await?;
        Ok(())
    }
}
