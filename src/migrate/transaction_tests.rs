//! Every run of the protocol that there is, with every crash and every loss.

use super::*;
use std::collections::{HashSet, VecDeque};

/// What is under way between the ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Message {
    Begin,
    Welcome,
    Seal,
    Prepared,
    Commit,
    Committed,
    Refused,
}

/// Both ends, what is under way, and what survives a crash: the receiver's journal, and the
/// sender's source, which its guard holds or lets go.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    sender: Option<Sender>,
    /// The sender was killed; what its guard does follows from the state that it had then.
    killed_in: Option<Sender>,
    receiver: Option<Receiver>,
    /// The journal: committed, aborted, or nothing yet.
    journal: Option<bool>,
    to_receiver: Vec<Message>,
    to_sender: Vec<Message>,
    connected: bool,
    source_runs: bool,
}

impl World {
    fn start() -> Self {
        Self {
            sender: Some(Sender::Declaring),
            killed_in: None,
            receiver: Some(Receiver::Filling),
            journal: None,
            to_receiver: vec![Message::Begin],
            to_sender: Vec::new(),
            connected: true,
            source_runs: false,
        }
    }

    fn check(&self) {
        assert!(!(self.source_runs && self.journal == Some(true)), "two owners: {self:?}");
        if self.receiver == Some(Receiver::Committed) {
            assert_eq!(self.journal, Some(true), "{self:?}");
        }
    }

    fn tell_sender(&mut self, event: SenderEvent) {
        let Some(state) = self.sender else { return };
        let next = state.on(event).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        self.sender = Some(next);
        if next.source() == Source::Ours {
            self.source_runs = true;
        }
    }

    fn tell_receiver(&mut self, event: ReceiverEvent) {
        let Some(state) = self.receiver else { return };
        self.receiver = Some(state.on(event).unwrap_or_else(|e| panic!("{e}: {self:?}")));
    }

    /// Everything that can happen next.
    fn next(&self) -> Vec<Self> {
        let mut all = Vec::new();
        let mut add = |change: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            change(&mut world);
            all.push(world);
        };
        // a message arrives
        if let (Some(_), Some(&message)) = (self.receiver, self.to_receiver.first()) {
            for refuses in [false, true] {
                add(&|w| {
                    w.to_receiver.remove(0);
                    w.receive(message, refuses);
                });
            }
        }
        if let (Some(_), Some(&message)) = (self.sender, self.to_sender.first()) {
            add(&|w| {
                w.to_sender.remove(0);
                w.answered(message);
            });
        }
        // pages have gone
        if self.sender == Some(Sender::Agreed) {
            add(&|w| {
                w.tell_sender(SenderEvent::AllSent);
                w.to_receiver.push(Message::Seal);
            });
        }
        // the connection breaks: what is under way is lost, from any message on
        if self.connected {
            for kept in 0..=self.to_receiver.len() {
                for heard in 0..=self.to_sender.len() {
                    add(&|w| {
                        w.connected = false;
                        w.to_receiver.truncate(kept);
                        w.to_sender.truncate(heard);
                    });
                }
            }
        }
        if !self.connected {
            if self.to_sender.is_empty()
                && self.sender.is_some_and(|s| s.source() == Source::Held && s != Sender::Unknown)
            {
                add(&|w| w.tell_sender(SenderEvent::Lost));
            }
            if self.to_receiver.is_empty() && self.receiver.is_some() {
                add(&|w| w.tell_receiver(ReceiverEvent::Lost));
            }
        }
        // an end is killed; the guard of the sender does what the state allows
        if let Some(state) = self.sender {
            add(&|w| {
                w.sender = None;
                w.killed_in = Some(state);
                w.connected = false;
                w.to_sender.clear(); // nobody reads them any more
                if state.may_thaw_when_killed() {
                    w.source_runs = true;
                }
            });
        }
        if self.receiver.is_some() {
            add(&|w| {
                w.receiver = None;
                w.connected = false;
            });
        }
        // the sender asks what became of it: the receiver, or one that opens the herd after it
        let unsure = self.sender == Some(Sender::Unknown)
            || (self.sender.is_none()
                && matches!(self.killed_in, Some(Sender::CommitAsked | Sender::Unknown)));
        if unsure {
            add(&|w| {
                let committed = *w.journal.get_or_insert(false);
                let event = SenderEvent::Resolved(committed);
                w.sender = Some(Sender::Unknown);
                w.tell_sender(event);
            });
        }
        all
    }

    fn receive(&mut self, message: Message, refuses: bool) {
        if refuses {
            // it says so only where its journal will keep the word
            if self.receiver == Some(Receiver::Committed) {
                return;
            }
            self.journal.get_or_insert(false);
            self.tell_receiver(ReceiverEvent::Lost);
            if self.connected {
                self.to_sender.push(Message::Refused);
            }
            self.to_receiver.clear();
            return;
        }
        let answer = match (message, self.receiver) {
            (Message::Begin, Some(Receiver::Filling)) => Message::Welcome,
            (Message::Seal, Some(Receiver::Filling)) => {
                self.tell_receiver(ReceiverEvent::Prepared);
                Message::Prepared
            }
            (Message::Commit, Some(Receiver::Prepared)) => match self.journal {
                Some(false) => {
                    self.tell_receiver(ReceiverEvent::Lost);
                    Message::Refused
                }
                _ => {
                    self.journal = Some(true);
                    self.tell_receiver(ReceiverEvent::Commit);
                    Message::Committed
                }
            },
            _ => return,
        };
        if self.connected {
            self.to_sender.push(answer);
        }
    }

    fn answered(&mut self, message: Message) {
        match message {
            Message::Welcome => self.tell_sender(SenderEvent::Welcomed),
            Message::Prepared => {
                self.tell_sender(SenderEvent::Prepared);
                if self.connected {
                    self.to_receiver.push(Message::Commit);
                }
            }
            Message::Committed => self.tell_sender(SenderEvent::Committed),
            Message::Refused => {
                self.tell_sender(SenderEvent::Refused);
                self.to_sender.clear();
            }
            Message::Begin | Message::Seal | Message::Commit => unreachable!(),
        }
    }

    /// Is it over, so that nobody has to do anything any more?
    fn is_decided(&self) -> bool {
        self.source_runs || self.journal == Some(true)
    }
}

#[test]
fn in_every_run_there_is_one_owner_and_every_doubt_can_be_resolved() {
    let mut seen = HashSet::new();
    let mut queue = VecDeque::from([World::start()]);
    let (mut unknown, mut committed, mut aborted) = (0, 0, 0);
    while let Some(world) = queue.pop_front() {
        if !seen.insert(world.clone()) {
            continue;
        }
        world.check();
        unknown += u64::from(world.sender == Some(Sender::Unknown));
        committed += u64::from(world.sender == Some(Sender::Committed));
        aborted += u64::from(world.sender == Some(Sender::Aborted));
        let next = world.next();
        if next.is_empty() {
            assert!(world.is_decided(), "it ends without an owner: {world:?}");
        }
        queue.extend(next);
    }
    println!("{} states: {unknown} unsure, {committed} committed, {aborted} aborted", seen.len());
    assert!(seen.len() > 100 && unknown > 0 && committed > 0 && aborted > 0);
}

#[test]
fn a_sender_that_thaws_after_it_asked_for_the_commit_would_make_two_owners() {
    // the test above has teeth: with this rule broken, there is a run with two owners
    let world = World { journal: Some(true), source_runs: true, ..World::start() };
    assert!(std::panic::catch_unwind(|| world.check()).is_err());
    for state in [Sender::CommitAsked, Sender::Unknown, Sender::Committed] {
        assert!(!state.may_thaw_when_killed());
        assert_ne!(state.source(), Source::Ours);
    }
}

#[test]
fn what_comes_out_of_turn_is_refused() {
    assert!(Sender::Declaring.on(SenderEvent::Committed).is_err());
    assert!(Sender::Agreed.on(SenderEvent::Prepared).is_err());
    assert!(Sender::Committed.on(SenderEvent::Refused).is_err());
    assert!(Receiver::Filling.on(ReceiverEvent::Commit).is_err());
    let said = Receiver::Committed.on(ReceiverEvent::Prepared).unwrap_err().to_string();
    assert!(said.contains("the seal"), "{said}");
}
