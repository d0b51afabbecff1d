//! Holds: units that are taken now and whose final cost is reported later, and slots that are taken until they are
//! given back. Also units that are spent and given back without a decision.
//!
//! A hold on windows is a check with its own record: what it takes is spent at once. Settling it spends more, or gives
//! back to where it came from. Everything that changes the table of holds does so under its lock, which is taken after
//! those of the shards, and queues its record there.
//!
//! Each module may use only those after it in this list: `once`, `settle`, `renew`, `hold`, `known`, `refund`.

mod hold;
mod known;
pub mod once;
mod refund;
mod renew;
mod settle;
