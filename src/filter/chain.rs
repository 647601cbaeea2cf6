//! Which filters, in which order: `--filters`.

use std::fmt;
use std::str::FromStr;

/// A filter by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Name {
    /// Pages that nobody ever used.
    Unused,
    /// Pages of zeros.
    Zero,
    /// Pages on a frame that was sent.
    Shared,
    /// Pages of content that was sent.
    Same,
    /// Pages of a template that the receiver has.
    Template,
    /// The difference to what was sent before.
    Xor,
    /// LZ4.
    Lz4,
    /// Zstandard, at this level.
    Zstd(i32),
    /// An external program.
    Exec(String),
}

/// The level of `zstd` where none is given: the fastest that gains much (docs/PERFORMANCE.md).
pub const ZSTD_LEVEL: i32 = 1;
/// Levels of `zstd`.
pub const ZSTD_LEVELS: std::ops::RangeInclusive<i32> = -7..=19;

impl Name {
    /// Does it pack bytes, rather than settle pages?
    pub const fn packs(&self) -> bool {
        matches!(self, Self::Xor | Self::Lz4 | Self::Zstd(_) | Self::Exec(_))
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Unused => 0,
            Self::Zero => 1,
            Self::Template => 2,
            Self::Shared => 3,
            Self::Same => 4,
            Self::Xor | Self::Lz4 | Self::Zstd(_) | Self::Exec(_) => 5,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unused => f.write_str("unused"),
            Self::Zero => f.write_str("zero"),
            Self::Shared => f.write_str("shared"),
            Self::Same => f.write_str("same"),
            Self::Template => f.write_str("template"),
            Self::Xor => f.write_str("xor"),
            Self::Lz4 => f.write_str("lz4"),
            Self::Zstd(level) => write!(f, "zstd={level}"),
            Self::Exec(command) => write!(f, "exec:{command}"),
        }
    }
}

/// The filters of one sender, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// The filters.
    pub names: Vec<Name>,
}

impl Chain {
    /// The default, where a VMM's stream is sent: memory itself cannot be asked, so equal pages are
    /// known by content; any other chain as it is.
    #[must_use]
    pub fn for_vmm(self) -> Self {
        if self != Self::default() {
            return self;
        }
        let of_memory =
            |name: &Name| matches!(name, Name::Unused | Name::Shared | Name::Same | Name::Xor);
        let mut names: Vec<Name> = self.names.into_iter().filter(|n| !of_memory(n)).collect();
        let codecs = names.iter().position(Name::packs).unwrap_or(names.len());
        names.insert(codecs, Name::Same);
        Self { names }
    }
}

impl Default for Chain {
    /// What costs nothing, what keeps memory shared, and codecs, of which the best for the link is
    /// chosen as it runs, or none. `same` must be asked for: it shares between VMs what they did
    /// not share before.
    fn default() -> Self {
        let names = vec![
            Name::Unused,
            Name::Zero,
            Name::Template,
            Name::Shared,
            Name::Xor,
            Name::Lz4,
            Name::Zstd(ZSTD_LEVEL),
        ];
        Self { names }
    }
}

impl Chain {
    /// Is this filter in it?
    pub fn has(&self, name: &Name) -> bool {
        self.names.contains(name)
    }
}

impl FromStr for Chain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::default());
        }
        let mut names: Vec<Name> = Vec::new();
        let mut rest = text;
        while !rest.is_empty() && rest != "none" {
            let (word, after) = if rest.starts_with("exec:") {
                (rest, "") // a command may have commas: it comes last
            } else {
                rest.split_once(',').unwrap_or((rest, ""))
            };
            rest = after;
            let name = one(word)?;
            let kind = std::mem::discriminant(&name);
            if names.iter().any(|other| std::mem::discriminant(other) == kind) {
                return Err(format!("filter '{word}' is there twice"));
            }
            if let Some(later) = names
                .iter()
                .find(|other| other.rank() > name.rank() && (other.packs() || name.rank() < 2))
            {
                return Err(format!(
                    "'{word}' comes too late behind '{later}': what needs no content comes first, and bytes are packed last"
                ));
            }
            names.push(name);
        }
        if text.is_empty() || text.ends_with(',') && !text.contains("exec:") {
            return Err("a filter has no name: write for example unused,zero,shared,zstd, or none"
                .to_owned());
        }
        Ok(Self { names })
    }
}

fn one(word: &str) -> Result<Name, String> {
    if let Some(command) = word.strip_prefix("exec:") {
        let filled = !command.trim().is_empty();
        return filled
            .then(|| Name::Exec(command.to_owned()))
            .ok_or_else(|| "exec: needs a command".to_owned());
    }
    match word.split_once('=') {
        Some(("zstd", level)) => {
            let fits = |level: &i32| ZSTD_LEVELS.contains(level) && *level != 0;
            let level = level.parse().ok().filter(fits);
            level.map(Name::Zstd).ok_or_else(|| {
                format!(
                    "'{word}': a level of zstd is a number from {} to {}, but not 0",
                    ZSTD_LEVELS.start(),
                    ZSTD_LEVELS.end()
                )
            })
        }
        None if word == "zstd" => Ok(Name::Zstd(ZSTD_LEVEL)),
        None => [
            Name::Unused,
            Name::Zero,
            Name::Shared,
            Name::Same,
            Name::Template,
            Name::Xor,
            Name::Lz4,
        ]
        .into_iter()
        .find(|name| name.to_string() == word)
        .ok_or_else(|| unknown(word)),
        Some(_) => Err(unknown(word)),
    }
}

fn unknown(word: &str) -> String {
    format!(
        "there is no filter '{word}': there are unused, zero, shared, same, template, xor, lz4, zstd[=LEVEL] and exec:COMMAND, or auto, or none"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_written_and_read() {
        let chain: Chain = "unused,zero,shared,same,template,xor,lz4,zstd=3".parse().unwrap();
        assert_eq!(chain.names.len(), 8);
        assert!(chain.has(&Name::Zstd(3)));
        assert_eq!("none".parse::<Chain>().unwrap().names, []);
        assert_eq!("auto".parse::<Chain>().unwrap(), Chain::default());
        let exec: Chain = "zero,exec:tr a,b c".parse().unwrap();
        assert_eq!(exec.names[1], Name::Exec("tr a,b c".into()));
        assert!("zero,zstd".parse::<Chain>().unwrap().names[1].packs());
    }

    #[test]
    fn what_is_no_chain_says_why() {
        for (text, why) in [
            ("", "no name"),
            ("zero,", "no name"),
            ("zero,zero", "twice"),
            ("zeros", "there is no filter 'zeros'"),
            ("zstd=99", "from -7 to 19"),
            ("zstd=0", "but not 0"),
            ("lz4,zero", "too late"),
            ("shared,zero", "too late"),
            ("exec:", "needs a command"),
            ("zero=1", "there is no filter"),
        ] {
            let said = text.parse::<Chain>().unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
