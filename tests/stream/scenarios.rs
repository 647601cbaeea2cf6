//! All scenarios: each one stream, and what is to become of it. `fixtures/stream/` is made of them.

mod good;
mod records;
mod vmm;
mod whole;

use crate::given::{Given, Memories};
use crate::script::Script;

/// Bits of the features.
pub(crate) const ANSWERS: u64 = 1;
pub(crate) const ROUNDS: u64 = 2;
pub(crate) const FOREIGN: u64 = 4;
pub(crate) const TEMPLATES: u64 = 8;
pub(crate) const EXEC: u64 = 16;
pub(crate) const VMM: u64 = 32;

/// One stream.
pub(crate) struct Scenario {
    pub name: &'static str,
    pub why: &'static str,
    pub expect: &'static str,
    pub must: Option<u8>,
    pub before: Option<&'static str>,
    pub behind: Option<&'static str>,
    pub script: Script,
    /// What the reader has, where it is not what the writer has.
    pub given: Option<Given>,
    /// Where it is good, the memories as the writer knows them.
    pub memories: Memories,
}

impl Scenario {
    fn behind(mut self, other: &'static str) -> Self {
        self.behind = Some(other);
        self
    }

    fn before(mut self, other: &'static str) -> Self {
        self.before = Some(other);
        self
    }

    fn given(mut self, given: Given) -> Self {
        self.given = Some(given);
        self
    }
}

/// A stream that is right.
fn good(name: &'static str, why: &'static str, script: &mut Script) -> Scenario {
    let (script, memories) = (script.clone(), script.memories());
    let (before, behind, given) = (None, None, None);
    Scenario { name, why, expect: "ok", must: None, before, behind, script, given, memories }
}

/// A stream that must be rejected for reason number `must`, as `expect`.
fn bad(
    name: &'static str,
    must: u8,
    expect: &'static str,
    why: &'static str,
    script: &mut Script,
) -> Scenario {
    let must = Some(must);
    Scenario { expect, must, memories: Vec::new(), ..good(name, why, script) }
}

fn script(features: u64) -> Script {
    Script::new(Given::default(), features)
}

/// A stream that is open, with VM `a` of so many pages.
fn open(features: u64, pages: u64) -> Script {
    let mut s = script(features);
    s.vm("a", pages).begin();
    s
}

/// The same with a template, of pages filled with 0x41, zero, 0x42, 0x43.
fn with_template(features: u64, pages: u64) -> Script {
    let mut s = Script::new(templates(), features | TEMPLATES);
    s.vm("a", pages).template(0).begin();
    s
}

fn templates() -> Given {
    Given { templates: vec![vec![0x41, 0, 0x42, 0x43]], ..Given::default() }
}

fn keyed(secret: &[u8]) -> Given {
    Given { secret: Some(secret.to_vec()), ..Given::default() }
}

/// All of them.
pub(crate) fn all() -> Vec<Scenario> {
    [
        good::all(),
        records::frames(),
        records::bodies(),
        whole::all(),
        whole::content(),
        vmm::good_ones(),
        vmm::bad_ones(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
