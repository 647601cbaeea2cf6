//! KSM's settings and counters: `/sys/kernel/mm/ksm/*` and `/proc/PID/ksm_stat`.
//!
//! Source: `mm/ksm.c`, `fs/proc/base.c` (`proc_pid_ksm_stat`),
//! `Documentation/admin-guide/mm/ksm.rst`; read against Linux 6.18.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What `/sys/kernel/mm/ksm/run` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Run {
    /// 0: the scanner rests, merged pages stay merged.
    Stopped,
    /// 1: it scans.
    Running,
    /// 2: it rests and everything was unmerged.
    Unmerge,
}

/// Global settings and counters, in pages where not said otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ksm {
    /// State of the scanner.
    pub run: Run,
    /// Pages a turn.
    pub pages_to_scan: u64,
    /// Milliseconds between turns.
    pub sleep_millisecs: u64,
    /// `false`: pages of different NUMA nodes are never merged.
    pub merge_across_nodes: bool,
    /// How many pages may map one merged frame.
    pub max_page_sharing: u64,
    /// Pages of zeros are replaced by the kernel's zero page (since 4.12).
    pub use_zero_pages: bool,
    /// Pages that did not merge are passed over for some scans (since 6.7).
    pub smart_scan: Option<bool>,
    /// The scan-time advisor, as the kernel names it (since 6.8).
    pub advisor_mode: Option<String>,
    /// Whole passes over all mergeable memory.
    pub full_scans: u64,
    /// Merged frames in use.
    pub pages_shared: u64,
    /// Further pages that map them: what is saved. Frames and pages together are
    /// `pages_shared + pages_sharing`.
    pub pages_sharing: u64,
    /// Seen, unique so far.
    pub pages_unshared: u64,
    /// Changing too fast to be placed in a tree.
    pub pages_volatile: u64,
    /// Passed over by the smart scan (since 6.7).
    pub pages_skipped: Option<u64>,
    /// Candidates looked at since boot (since 6.7).
    pub pages_scanned: Option<u64>,
    /// Zero pages put in place by KSM (since 6.6).
    pub ksm_zero_pages: Option<u64>,
    /// Bytes saved less bytes of the scanner's own records (since 6.0).
    pub general_profit: Option<i64>,
    /// Contents whose merged frames had to be several, because of `max_page_sharing`.
    pub stable_node_chains: u64,
    /// The further frames of these contents.
    pub stable_node_dups: u64,
}

/// What one process has of KSM (since 6.1).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct KsmStat {
    /// Pages the scanner keeps a record of.
    pub rmap_items: u64,
    /// Pages that map a merged frame.
    pub merging_pages: u64,
    /// Zero pages put in place by KSM.
    pub zero_pages: u64,
    /// Bytes saved less bytes of the scanner's records.
    pub process_profit: i64,
    /// All of its memory is mergeable by `PR_SET_MEMORY_MERGE` (since 6.14's field).
    pub merge_any: Option<bool>,
    /// Some of its memory is mergeable.
    pub mergeable: Option<bool>,
}

/// A counter is missing or is no number.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("KSM's '{file}' is {found}, which is not understood")]
pub struct KsmError {
    /// Name of the file or field.
    pub file: &'static str,
    /// What stood there, or `missing`.
    pub found: String,
}

impl Ksm {
    /// From the contents of the files of `/sys/kernel/mm/ksm`, by name.
    pub fn parse(files: &BTreeMap<String, String>) -> Result<Self, KsmError> {
        let text = |file: &'static str| {
            files.get(file).map(|s| s.trim()).ok_or(KsmError { file, found: "missing".to_owned() })
        };
        let number = |file: &'static str| {
            let t = text(file)?;
            t.parse::<u64>().map_err(|_| KsmError { file, found: format!("'{t}'") })
        };
        let newer = |file: &'static str| text(file).is_ok().then(|| number(file)).transpose();
        let run = match number("run")? {
            0 => Run::Stopped,
            1 => Run::Running,
            2 => Run::Unmerge,
            other => return Err(KsmError { file: "run", found: format!("'{other}'") }),
        };
        Ok(Self {
            run,
            pages_to_scan: number("pages_to_scan")?,
            sleep_millisecs: number("sleep_millisecs")?,
            merge_across_nodes: newer("merge_across_nodes")?.is_none_or(|n| n != 0),
            max_page_sharing: number("max_page_sharing")?,
            use_zero_pages: newer("use_zero_pages")?.is_some_and(|n| n != 0),
            smart_scan: newer("smart_scan")?.map(|n| n != 0),
            advisor_mode: text("advisor_mode").ok().map(chosen),
            full_scans: number("full_scans")?,
            pages_shared: number("pages_shared")?,
            pages_sharing: number("pages_sharing")?,
            pages_unshared: number("pages_unshared")?,
            pages_volatile: number("pages_volatile")?,
            pages_skipped: newer("pages_skipped")?,
            pages_scanned: newer("pages_scanned")?,
            ksm_zero_pages: newer("ksm_zero_pages")?,
            general_profit: text("general_profit").ok().and_then(|t| t.parse().ok()),
            stable_node_chains: number("stable_node_chains")?,
            stable_node_dups: number("stable_node_dups")?,
        })
    }
}

/// The word in brackets of a sysfs choice such as `[none] scan-time`.
fn chosen(text: &str) -> String {
    let inner = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inner.map_or(text, |(word, _)| word).to_owned()
}

impl KsmStat {
    /// From the text of `/proc/PID/ksm_stat`; fields of other kernels are passed over.
    pub fn parse(text: &str) -> Result<Self, KsmError> {
        let mut stat = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once([' ', ':']) else { continue };
            let value = value.trim();
            let bad = |file| KsmError { file, found: format!("'{value}'") };
            match key {
                "ksm_rmap_items" => {
                    stat.rmap_items = value.parse().map_err(|_| bad("ksm_rmap_items"))?;
                }
                "ksm_merging_pages" => {
                    stat.merging_pages = value.parse().map_err(|_| bad("ksm_merging_pages"))?;
                }
                "ksm_zero_pages" => {
                    stat.zero_pages = value.parse().map_err(|_| bad("ksm_zero_pages"))?;
                }
                "ksm_process_profit" => {
                    stat.process_profit = value.parse().map_err(|_| bad("ksm_process_profit"))?;
                }
                "ksm_merge_any" => stat.merge_any = Some(value == "yes"),
                "ksm_mergeable" => stat.mergeable = Some(value == "yes"),
                _ => {}
            }
        }
        Ok(stat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(changed: &[(&str, &str)]) -> BTreeMap<String, String> {
        let plain = [
            ("run", "1\n"),
            ("pages_to_scan", "100\n"),
            ("sleep_millisecs", "20\n"),
            ("max_page_sharing", "256\n"),
            ("full_scans", "3\n"),
            ("pages_shared", "10\n"),
            ("pages_sharing", "90\n"),
            ("pages_unshared", "5\n"),
            ("pages_volatile", "1\n"),
            ("stable_node_chains", "0\n"),
            ("stable_node_dups", "0\n"),
        ];
        plain.iter().chain(changed).map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn an_old_kernel_has_fewer_files() {
        let ksm = Ksm::parse(&files(&[])).unwrap();
        assert_eq!((ksm.run, ksm.pages_sharing), (Run::Running, 90));
        assert_eq!((ksm.smart_scan, ksm.general_profit, ksm.advisor_mode), (None, None, None));
        assert!(ksm.merge_across_nodes && !ksm.use_zero_pages);
    }

    #[test]
    fn a_new_kernel_has_more() {
        let ksm = Ksm::parse(&files(&[
            ("run", "2"),
            ("general_profit", "-128"),
            ("advisor_mode", "[none] scan-time\n"),
            ("merge_across_nodes", "0"),
        ]))
        .unwrap();
        assert_eq!((ksm.run, ksm.general_profit), (Run::Unmerge, Some(-128)));
        assert_eq!(ksm.advisor_mode.as_deref(), Some("none"));
        assert!(!ksm.merge_across_nodes);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let error = Ksm::parse(&files(&[("run", "7")])).unwrap_err();
        assert_eq!(error.to_string(), "KSM's 'run' is '7', which is not understood");
        let mut less = files(&[]);
        less.remove("pages_shared");
        assert_eq!(Ksm::parse(&less).unwrap_err().found, "missing");
    }

    #[test]
    fn the_statistics_of_a_process() {
        let stat = KsmStat::parse(
            "ksm_rmap_items 12\nksm_zero_pages 0\nksm_merging_pages 10\nksm_process_profit -88\nksm_merge_any: no\nksm_mergeable: yes\n",
        )
        .unwrap();
        assert_eq!((stat.rmap_items, stat.merging_pages, stat.process_profit), (12, 10, -88));
        assert_eq!((stat.merge_any, stat.mergeable), (Some(false), Some(true)));
        assert!(KsmStat::parse("ksm_rmap_items x").is_err());
    }
}
