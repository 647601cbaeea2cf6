//! What a stream may say that carries a VMM's own (`docs/FORMAT.md`, 3.15): the same for who keeps it
//! and for who gives it to a VMM.

use crate::wire::WireError;
use crate::wire::pages::{Base, Op, PageOp};
use crate::wire::record::{Native, PoolShape};

/// How far such a stream has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    has_vm: bool,
    has_pool: bool,
    is_ready: bool,
}

fn wrong(what: &'static str) -> WireError {
    WireError::Wrong(what)
}

impl Rules {
    /// It declares a VM of its own.
    pub(super) fn vm(&mut self, foreign: bool) -> Result<(), WireError> {
        if foreign || self.has_vm {
            return Err(wrong("a VMM's stream has more than one VM"));
        }
        self.has_vm = true;
        Ok(())
    }

    /// It declares its pool.
    pub(super) fn pool(&mut self, shape: &PoolShape) -> Result<(), WireError> {
        if self.has_pool {
            return Err(wrong("it has two pools"));
        }
        if !self.has_vm {
            return Err(wrong("it declares a pool before its VM"));
        }
        if shape.is_own() && (shape.member != 0 || !shape.others.is_empty()) {
            return Err(wrong("a pool of one stream has other members"));
        }
        self.has_pool = true;
        Ok(())
    }

    /// Pages that come are kept from here on, or not.
    pub(super) fn keep(&self) -> Result<(), WireError> {
        match self {
            Self { is_ready: true, .. } => Err(wrong("pages are kept after the VMM is ready")),
            Self { has_pool: false, .. } => Err(wrong("it keeps pages and has declared no pool")),
            _ => Ok(()),
        }
    }

    /// A part that is no page.
    pub(super) fn native(&mut self, part: Native<'_>) -> Result<(), WireError> {
        match part {
            Native::Bytes(_) => Ok(()),
            Native::Named if self.is_ready => Err(wrong("a block is named after the VMM is ready")),
            Native::Ready(_) if self.is_ready => Err(wrong("it is ready twice")),
            Native::Named => Ok(()),
            Native::Ready(_) => {
                self.is_ready = true;
                Ok(())
            }
        }
    }

    /// Pages.
    pub(super) fn pages(&self, ops: &[PageOp]) -> Result<(), WireError> {
        if self.is_ready {
            return Err(wrong("pages come after the VMM is ready"));
        }
        ops.iter().try_for_each(|op| match op.op {
            Op::Same { .. } => Err(wrong("a VMM's stream refers to pages of a VM")),
            Op::Unused => Err(wrong("a VMM's stream has pages that are unused")),
            Op::Packed { base: Some(Base::Earlier), .. } => {
                Err(wrong("a VMM's stream has a difference to what it sent before"))
            }
            Op::Pool { .. } if !self.has_pool => Err(wrong("it has declared no pool")),
            _ => Ok(()),
        })
    }

    /// Its VM is complete.
    pub(super) fn end(&self) -> Result<(), WireError> {
        if self.is_ready { Ok(()) } else { Err(wrong("its VM is complete before it is ready")) }
    }
}

/// Of a stream that carries no VMM's.
pub(super) fn plain_pages(ops: &[PageOp]) -> Result<(), WireError> {
    if ops.iter().any(|op| matches!(op.op, Op::Pool { .. } | Op::Skip)) {
        return Err(wrong("it has pages of a VMM's stream and does not say so"));
    }
    Ok(())
}
