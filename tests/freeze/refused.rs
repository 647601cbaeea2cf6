//! What is not held, and what is said then.

use super::*;
use support::skip;

fn refused(command: &mut Command, part: &str) {
    let freezer = Freezer::start(command);
    let [said] = &freezer.said[..] else { panic!("{:?}", freezer.said) };
    assert!(said.starts_with("error ") && said.contains(part), "{said}");
}

fn freezer(args: &[&str]) -> Command {
    let mut command = Command::new(example("freezer"));
    command.args(args);
    command
}

#[test]
fn our_own_process_and_those_that_wait_for_us_are_not_stopped() {
    let own = std::process::id().to_string();
    refused(&mut freezer(&[&own]), "started this command");
    let mut freezer = Freezer::new(&[]);
    let said = freezer.tell(&format!("hold {}", freezer.pid()));
    assert!(said.contains("is this command itself"), "{said}");
    let said = freezer.tell(&format!("hold {}", freezer.guard));
    assert!(said.contains("is this command itself"), "{said}");
}

#[test]
fn a_process_that_is_traced_is_not_stopped() {
    let holder = ticking();
    let tracer = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-p", &holder.pid.to_string()])
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut tracer) = tracer else {
        skip("a_process_that_is_traced_is_not_stopped", "strace is not installed");
        return;
    };
    wait_for("the tracer", SOON, || {
        let status = fs::read_to_string(format!("/proc/{}/status", holder.pid)).unwrap();
        status.contains(&format!("TracerPid:\t{}", tracer.id()))
    });
    let part = format!("is traced by process {}", tracer.id());
    refused(&mut freezer(&[&holder.pid.to_string()]), &part);
    tracer.kill().unwrap();
    tracer.wait().unwrap();
    wait_free(holder.pid);
}

#[test]
fn one_that_does_not_come_to_rest_runs_on() {
    // a parent waits for the program that its vfork starts, and takes no signal to stop meanwhile
    let code = "import ctypes,time\nc=ctypes.CDLL(None)\nif c.vfork()==0:\n time.sleep(4)\n c._exit(0)\ntime.sleep(60)";
    let Ok(mut shell) = Command::new("python3").args(["-c", code]).stdin(Stdio::null()).spawn()
    else {
        skip("one_that_does_not_come_to_rest_runs_on", "python3 is not installed");
        return;
    };
    let pid = i32::try_from(shell.id()).unwrap();
    // a look or two may find it at its first pages, too
    let waits = || {
        (0..10).all(|_| {
            sleep(Duration::from_millis(10));
            states(pid) == ['D']
        })
    };
    let begin = Instant::now();
    while !waits() && begin.elapsed() < SOON {}
    if waits() {
        let id = pid.to_string();
        refused(&mut freezer(&["patience=300", &id]), "did not come to rest");
        assert!(!states(pid).contains(&'T') && is_forgotten(pid));
    } else {
        skip("one_that_does_not_come_to_rest_runs_on", "no process waits in vfork here");
    }
    shell.kill().unwrap();
    shell.wait().unwrap();
}

/// A user without privileges, in whose name processes are started.
const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

#[test]
fn a_process_of_another_user_needs_a_capability() {
    const TEST: &str = "a_process_of_another_user_needs_a_capability";
    let mut other = Command::new("setpriv").args(NOBODY).args(["sleep", "60"]).spawn().unwrap();
    let pid = other.id().to_string();
    wait_for("setpriv", SOON, || {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n"
    });
    let caps = ["--bounding-set", "-kill", "--inh-caps", "-kill"];
    let can = Command::new("setpriv").args(caps).arg("true").status();
    if can.is_ok_and(|status| status.success()) {
        let mut command = Command::new("setpriv");
        command.args(caps).arg(example("freezer")).arg(&pid);
        refused(&mut command, "needs the capability CAP_KILL");
    } else {
        skip(TEST, "setpriv may not drop capabilities here");
    }
    assert!(is_forgotten(pid.parse().unwrap()));
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_user_without_privileges_holds_his_own_and_no_other() {
    const TEST: &str = "a_user_without_privileges_holds_his_own_and_no_other";
    // the build may be in a folder that only its owner enters
    let folder = tempfile::tempdir().unwrap();
    let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    fs::set_permissions(folder.path(), open).unwrap();
    let program = folder.path().join("freezer");
    fs::copy(example("freezer"), &program).unwrap();
    let as_nobody = || {
        let mut command = Command::new("setpriv");
        command.args(NOBODY).env_remove("XDG_RUNTIME_DIR");
        command
    };
    let Ok(mut own) = as_nobody().args(["sleep", "60"]).spawn() else {
        skip(TEST, "setpriv is not installed");
        return;
    };
    let pid = i32::try_from(own.id()).unwrap();
    wait_for("setpriv", SOON, || {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n"
    });
    let mut freezer = Freezer::start(as_nobody().arg(&program).arg(pid.to_string()));
    assert!(freezer.holds(pid) && is_stopped(pid), "{:?}", freezer.said);
    freezer.kill();
    wait_free(pid);
    let holder = ticking();
    refused(as_nobody().arg(&program).arg(holder.pid.to_string()), "CAP_SYS_PTRACE");
    own.kill().unwrap();
    own.wait().unwrap();
    assert!(!fs::exists("/tmp/pageherd-65534").unwrap());
}

#[test]
fn ways_that_are_not_there_are_named() {
    let holder = ticking();
    let pid = holder.pid.to_string();
    refused(&mut freezer(&["way=qmp", &pid]), "has no QMP socket");
    refused(&mut freezer(&["socket=/nowhere", &pid]), "cannot be connected to");
    refused(&mut freezer(&["way=cgroup", &pid]), "is not alone in a control group");
    assert!(!is_stopped(holder.pid) && is_forgotten(holder.pid));
}
