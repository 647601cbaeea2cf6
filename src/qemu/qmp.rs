//! QMP, QEMU's control protocol: bytes to messages, commands to bytes, and where a command line
//! says that it is served.
//!
//! What comes in is from a stranger: a message is bounded, garbage is skipped up to the next line,
//! and nothing is believed that has not the shape of a message. Whose socket it is, and when to
//! stop waiting, is the business of the caller.

use serde_json::{Value, json};
use std::path::PathBuf;

/// Longest message that is taken, in bytes. QEMU's longest answer (`query-qmp-schema`) has about
/// 200 KiB in version 7.2; those that pageherd asks for have less than one.
pub const MAX_MESSAGE: usize = 1 << 20;

/// What QEMU says.
#[derive(Clone, PartialEq, Debug)]
pub enum Message {
    /// The first thing it says.
    Greeting,
    /// Something happened: `STOP`, `RESUME`, ….
    Event(String),
    /// A command was done.
    Return {
        /// The `id` that the command had.
        id: Option<String>,
        /// What it returned.
        value: Value,
    },
    /// A command failed.
    Error {
        /// The `id` that the command had.
        id: Option<String>,
        /// QEMU's words.
        words: String,
    },
    /// Something else, or something that is no message.
    Other,
}

/// The other end does not speak QMP, or not as it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QmpError {
    /// A message without end.
    #[error("a message is longer than {MAX_MESSAGE} bytes: this is not QMP")]
    TooLong,
}

/// Takes bytes as they come and gives messages. Both forms are understood: one message a line, and
/// the indented one of `-qmp-pretty`. It may begin in the middle of a message, as happens to one who
/// takes a connection over: the rest of that message is skipped.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
    /// Up to here `bytes` has been looked at.
    seen: usize,
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// What stands here is no message: skip to the end of the line.
    skipping: bool,
}

impl Reader {
    /// Takes bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, if it is there as a whole.
    ///
    /// # Errors
    /// [`QmpError::TooLong`]; all that was taken is forgotten then.
    pub fn next_message(&mut self) -> Result<Option<Message>, QmpError> {
        while let Some(&byte) = self.bytes.get(self.seen) {
            self.seen += 1;
            if self.skipping || self.depth == 0 {
                self.skipping = match byte {
                    b'\n' => false,
                    b'{' if !self.skipping => {
                        self.depth = 1;
                        self.bytes.drain(..self.seen - 1);
                        self.seen = 1;
                        false
                    }
                    other => self.skipping || !other.is_ascii_whitespace(),
                };
                continue;
            }
            match (byte, self.in_string) {
                // no string of JSON goes over the end of a line: we were not where we thought
                (b'\n', true) => self.reset(),
                (_, true) if self.escaped => self.escaped = false,
                (b'\\', true) => self.escaped = true,
                (b'"', _) => self.in_string = !self.in_string,
                (b'{' | b'[', false) => self.depth += 1,
                (b'}' | b']', false) => self.depth -= 1,
                _ => {}
            }
            if self.depth == 0 && !self.bytes.is_empty() {
                let message = parse(&self.bytes[..self.seen]);
                self.bytes.drain(..self.seen);
                self.reset_state();
                return Ok(Some(message));
            }
        }
        if self.depth == 0 {
            self.bytes.clear();
            self.seen = 0;
        }
        if self.bytes.len() > MAX_MESSAGE {
            self.bytes = Vec::new();
            self.reset_state();
            return Err(QmpError::TooLong);
        }
        Ok(None)
    }

    /// Forgets what was looked at.
    fn reset(&mut self) {
        self.bytes.drain(..self.seen);
        self.reset_state();
    }

    fn reset_state(&mut self) {
        (self.seen, self.depth) = (0, 0);
        (self.in_string, self.escaped, self.skipping) = (false, false, false);
    }
}

fn parse(bytes: &[u8]) -> Message {
    let Ok(Value::Object(mut said)) = serde_json::from_slice(bytes) else { return Message::Other };
    let id = said.get("id").and_then(Value::as_str).map(str::to_owned);
    if said.get("QMP").is_some_and(Value::is_object) {
        return Message::Greeting;
    }
    if let Some(name) = said.get("event").and_then(Value::as_str) {
        return Message::Event(name.to_owned());
    }
    if let Some(value) = said.remove("return") {
        return Message::Return { id, value };
    }
    if let Some(error) = said.get("error") {
        let words = error["desc"].as_str().unwrap_or("no reason given");
        // it goes to a terminal and into one line
        let words = words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
        return Message::Error { id, words };
    }
    Message::Other
}

/// A command without arguments, as bytes; its answer will have `id`.
pub fn command(name: &str, id: &str) -> Vec<u8> {
    let mut line = json!({"execute": name, "id": id}).to_string().into_bytes();
    line.push(b'\n');
    line
}

/// What `query-status` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// The guest's processors run.
    pub running: bool,
    /// QEMU's word for it: `running`, `paused`, `postmigrate`, ….
    pub state: String,
}

impl Status {
    /// Reads the answer to `query-status`.
    pub fn parse(value: &Value) -> Option<Self> {
        let running = value.get("running")?.as_bool()?;
        let state = value.get("status")?.as_str()?;
        state.bytes().all(|b| b.is_ascii_graphic()).then(|| Self { running, state: state.into() })
    }

    /// The guest stands, and only a command or an end of QEMU will change that. It may not be
    /// running and still change: while a migration comes in or ends, while a snapshot is made, or
    /// asleep (`suspended`), from which a timer wakes it (qapi/run-state.json).
    pub fn stands(&self) -> bool {
        const STANDING: [&str; 10] = [
            "paused",
            "prelaunch",
            "postmigrate",
            "shutdown",
            "internal-error",
            "io-error",
            "watchdog",
            "guest-panicked",
            "debug",
            "preconfig",
        ];
        !self.running && STANDING.contains(&self.state.as_str())
    }
}

/// The paths of Unix sockets at which a QEMU with this command line serves QMP. Relative ones are
/// relative to the folder in which it was started. Sockets that it got by descriptor, connects to
/// itself, or has in the abstract name space are not among them.
pub fn sockets(cmdline: &[String]) -> Vec<PathBuf> {
    let options = |name: &str| {
        let name = name.to_owned();
        cmdline.windows(2).filter_map(move |pair| {
            let flag = pair[0].strip_prefix('-')?;
            (flag.strip_prefix('-').unwrap_or(flag) == name).then(|| Keys::parse(&pair[1]))
        })
    };
    let chardevs: Vec<Keys> = options("chardev").collect();
    let of_chardev = |id: &str| {
        let mut all = chardevs.iter().filter(|keys| keys.get("id") == Some(id));
        let keys = all.next().filter(|keys| keys.first() == Some("socket"))?;
        (keys.is_on("server") && !keys.is_on("abstract")).then(|| keys.get("path"))?
    };
    let mut paths: Vec<&str> = Vec::new();
    let short: Vec<Keys> = options("qmp").chain(options("qmp-pretty")).collect();
    for keys in &short {
        let Some(first) = keys.first() else { continue };
        if let Some(path) = first.strip_prefix("unix:") {
            paths.extend((keys.is_on("server") && !keys.is_on("abstract")).then_some(path));
        } else if let Some(id) = first.strip_prefix("chardev:") {
            paths.extend(of_chardev(id));
        }
    }
    let monitors: Vec<Keys> = options("mon").collect();
    for keys in monitors.iter().filter(|keys| keys.get("mode") == Some("control")) {
        let id = keys.get("chardev").or(keys.first());
        paths.extend(id.and_then(of_chardev));
    }
    let mut found: Vec<PathBuf> = Vec::new();
    for path in paths.into_iter().filter(|path| !path.is_empty()).map(PathBuf::from) {
        if !found.contains(&path) {
            found.push(path);
        }
    }
    found
}

/// `first,key=value,key`: the value of an option. Two commas are one that belongs to a value
/// (util/qemu-option.c, `get_opt_value`).
#[derive(Debug)]
struct Keys(Vec<String>);

impl Keys {
    fn parse(text: &str) -> Self {
        let mut parts = vec![String::new()];
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c == ',' && chars.next_if_eq(&',').is_none() {
                parts.push(String::new());
            } else if let Some(last) = parts.last_mut() {
                last.push(c);
            }
        }
        Self(parts)
    }

    /// What stands first, without a key.
    fn first(&self) -> Option<&str> {
        let first = self.0.first()?;
        match first.split_once('=') {
            Some(("backend" | "chardev", value)) => Some(value),
            // a path may have a '='
            Some(_) if !first.starts_with("unix:") => None,
            _ => Some(first),
        }
    }

    /// The value of a key: the last one, as QEMU takes it.
    fn get(&self, key: &str) -> Option<&str> {
        let mut all = self.0.iter().rev().filter_map(|part| part.split_once('='));
        all.find(|(k, _)| *k == key).map(|(_, value)| value)
    }

    /// Is a switch on? Both `server=on` and `server` are.
    fn is_on(&self, key: &str) -> bool {
        let last = self.0.iter().rev().find_map(|part| match part.split_once('=') {
            Some((k, value)) if k == key => Some(matches!(value, "on" | "yes" | "true" | "y")),
            None if part == key => Some(true),
            None if part.strip_prefix("no") == Some(key) => Some(false),
            _ => None,
        });
        last.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8]) -> Vec<Message> {
        let mut reader = Reader::default();
        reader.feed(bytes);
        std::iter::from_fn(|| reader.next_message().unwrap()).collect()
    }

    const TALK: &str = concat!(
        r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "{x}"}, "capabilities": ["oob"]}}"#,
        "\r\n",
        r#"{"return": {}, "id": "1"}"#,
        "\r\n",
        r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#,
        "\r\n",
        r#"{"id": "2", "error": {"class": "GenericError", "desc": "no \"}\" here"}}"#,
        "\r\n",
        r#"{"return": {"status": "paused", "singlestep": false, "running": false}, "id": "3"}"#,
        "\r\n",
    );

    fn talk() -> Vec<Message> {
        let id = |n: &str| Some(n.to_owned());
        let status = json!({"status": "paused", "singlestep": false, "running": false});
        vec![
            Message::Greeting,
            Message::Return { id: id("1"), value: json!({}) },
            Message::Event("STOP".into()),
            Message::Error { id: id("2"), words: "no \"}\" here".into() },
            Message::Return { id: id("3"), value: status },
        ]
    }

    #[test]
    fn a_talk_is_understood_however_it_is_cut() {
        assert_eq!(all(TALK.as_bytes()), talk());
        for cut in 0..TALK.len() {
            let mut reader = Reader::default();
            let mut found = Vec::new();
            for part in [&TALK.as_bytes()[..cut], &TALK.as_bytes()[cut..]] {
                reader.feed(part);
                found.extend(std::iter::from_fn(|| reader.next_message().unwrap()));
            }
            assert_eq!(found, talk(), "cut at {cut}");
        }
    }

    #[test]
    fn the_indented_form_is_the_same() {
        let pretty: String = TALK
            .lines()
            .map(|line| {
                let value: Value = serde_json::from_str(line).unwrap();
                serde_json::to_string_pretty(&value).unwrap() + "\r\n"
            })
            .collect();
        assert_eq!(all(pretty.as_bytes()), talk());
    }

    /// Whoever takes a connection over may find the rest of a message: it costs that one at most.
    #[test]
    fn one_who_begins_in_the_middle_hears_what_follows() {
        for from in 0..TALK.len() {
            let found = all(&TALK.as_bytes()[from..]);
            let whole = TALK.as_bytes()[from..].iter().filter(|&&b| b == b'\n').count() - 1;
            let tail = &talk()[5 - whole..];
            assert!(found.ends_with(tail), "from {from}: {found:?}");
        }
    }

    #[test]
    fn a_human_monitor_says_nothing_that_counts() {
        assert_eq!(all(b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) "), []);
    }

    #[test]
    fn a_message_without_end_is_refused_and_the_next_is_heard() {
        let mut reader = Reader::default();
        reader.feed(b"{\"return\": \"");
        let mut refused = false;
        for _ in 0..20 {
            reader.feed(&[b'x'; 1 << 16]);
            refused |= reader.next_message().is_err();
        }
        assert!(refused);
        reader.feed(b"\r\n{\"return\": {}}\r\n");
        assert_eq!(reader.next_message(), Ok(Some(Message::Return { id: None, value: json!({}) })));
        // noise outside of a message takes no memory
        reader.feed(&[b' '; 4096]);
        assert_eq!(reader.next_message(), Ok(None));
        assert!(reader.bytes.is_empty());
    }

    #[test]
    fn an_error_for_a_terminal_has_no_control_characters() {
        let said = all(b"{\"error\": {\"desc\": \"a\\u001b[2Jb\"}}\n");
        assert_eq!(said, [Message::Error { id: None, words: "a [2Jb".into() }]);
    }

    #[test]
    fn only_a_state_that_stays_is_one_that_stands() {
        let status = |running: bool, state: &str| {
            Status::parse(&json!({"running": running, "status": state})).unwrap().stands()
        };
        assert!(status(false, "paused") && status(false, "postmigrate"));
        assert!(!status(true, "running") && !status(true, "paused"));
        assert!(!status(false, "inmigrate") && !status(false, "suspended"));
        assert_eq!(Status::parse(&json!({"running": "no", "status": "paused"})), None);
        assert_eq!(Status::parse(&json!([])), None);
    }

    #[test]
    fn the_sockets_of_a_command_line_are_found() {
        let line = |text: &str| {
            let args: Vec<String> = text.split(' ').map(str::to_owned).collect();
            let found = sockets(&args);
            found.iter().map(|p| p.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        for (text, want) in [
            ("q -qmp unix:/a/b,server=on,wait=off", vec!["/a/b"]),
            ("q --qmp unix:/a=b,server,nowait -m 1", vec!["/a=b"]),
            ("q -qmp-pretty unix:a,,b,server=on", vec!["a,b"]),
            ("q -qmp unix:/a", vec![]),
            ("q -qmp unix:/a,server=off", vec![]),
            ("q -qmp unix:/a,server,noserver", vec![]),
            ("q -qmp unix:/a,server=on,abstract=on", vec![]),
            ("q -qmp tcp:localhost:4444,server=on", vec![]),
            ("q -qmp stdio", vec![]),
            ("q -monitor unix:/a,server=on", vec![]),
            ("q -chardev socket,id=c,path=/x,server=on -mon chardev=c,mode=control", vec!["/x"]),
            ("q -mon c,mode=control -chardev socket,server=on,path=/x,id=c", vec!["/x"]),
            ("q -chardev socket,id=c,path=/x,server=on -mon chardev=c,mode=readline", vec![]),
            ("q -chardev socket,id=c,path=/x,server=on -mon chardev=c", vec![]),
            ("q -chardev socket,id=c,fd=20,server=on -mon chardev=c,mode=control", vec![]),
            ("q -chardev file,id=c,path=/x,server=on -mon chardev=c,mode=control", vec![]),
            ("q -chardev socket,id=c,path=/x,server=on -qmp chardev:c", vec!["/x"]),
            ("q -qmp unix:/a,server=on -qmp unix:/b,server=on", vec!["/a", "/b"]),
            ("q -qmp", vec![]),
        ] {
            assert_eq!(line(text), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_messages_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut reader = Reader::default();
            for part in bytes.chunks(7) {
                reader.feed(part);
                while let Some(_message) = reader.next_message().unwrap() {}
            }
        }

        #[test]
        fn anything_like_json_is_survived(text in "[{}\\[\\]\",:\\\\a\n ]{0,200}") {
            let mut reader = Reader::default();
            reader.feed(text.as_bytes());
            while let Some(_message) = reader.next_message().unwrap() {}
            // a line that ends outside of everything puts it right again
            reader.feed(b"\n\"\n\n");
        }

        #[test]
        fn any_command_line_has_sockets_or_none(args in prop::collection::vec("-?-?(qmp|mon|chardev)?.{0,20}", 0..8)) {
            let _ = sockets(&args);
        }
    }
}
