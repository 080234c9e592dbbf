//! How one gateway's exports become another's imports: rules P5 to P14, P19, P26 and P28 as machines
//! without IO.
//!
//! ```text
//!  exporting gateway                                importing gateway
//!  CatalogLog -> Exporter  --- ExporterMessage ---> Importer -> Action (apply, sweep)
//!                          <-- ImporterMessage ----
//! ```
//!
//! A [`CatalogLog`] is what one peer may see, versioned; an [`Exporter`] walks one importing gateway
//! through it; an [`Importer`] judges what arrives and says what to change. Messages and `now` go in,
//! messages and actions come out: streams, encoding, disk and timers belong to `peer`. Which exports a
//! peer may see is decided in [`policy`](super::policy), how catalogs merge in `import`.

pub mod digest;
pub mod exporter;
mod held;
pub mod importer;
pub mod log;
pub mod message;
pub mod quota;
mod violation;

#[cfg(test)]
mod tests;

pub use digest::Digest;
pub use exporter::{Exporter, ExporterProgress};
pub use importer::{Action, Importer, ImporterProgress, Ticket};
pub use log::{CatalogLog, ExportTooLarge};
pub use message::{ExporterMessage, ImporterMessage, RefusalCode, RowChange, RowRefusal};
pub use quota::Quotas;
pub use violation::Violation;
