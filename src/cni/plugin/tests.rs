use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    sync::mpsc,
    thread,
};

use super::*;
use crate::{
    api::{Answer, CniFailure},
    cni::{attachment::tests::sample, store::Store},
    netlink::ns::testing::private,
};

const SHORT: Waits = Waits {
    stdin: Duration::from_secs(10),
    agent: Duration::from_millis(200),
    delegate: Duration::from_secs(10),
};

fn call_of(dir: &Path, command: &str, stdin: Value) -> Call {
    Call {
        request: CniRequest {
            command: command.into(),
            container_id: "c1".into(),
            netns: "/run/netns/x".into(),
            ifname: "eth0".into(),
            args: String::new(),
            path: dir.to_str().unwrap().into(),
            stdin: Value::Null,
        },
        run_dir: Some(dir.to_owned()),
        inside: None,
        stdin: Stdin::Text(if stdin.is_null() { String::new() } else { stdin.to_string() }),
    }
}

fn conf() -> Value {
    json!({"cniVersion": "1.1.0", "name": "net", "type": "slash32"})
}

fn code_of(output: &Output) -> u64 {
    assert!(!output.success, "{output:?}");
    serde_json::from_str::<Value>(&output.text).unwrap()["code"].as_u64().unwrap()
}

/// An agent that answers every request with what `answer` makes of it.
fn agent(dir: &Path, answer: impl Fn(Request) -> String + Send + 'static) {
    let listener = UnixListener::bind(dir.join(SOCKET_NAME)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            let text = answer(serde_json::from_str(&line).unwrap());
            let _ = stream.write_all(text.as_bytes());
        }
    });
}

fn line(answer: CniAnswer) -> String {
    serde_json::to_string(&Answer::Ok(serde_json::to_value(answer).unwrap())).unwrap() + "\n"
}

#[test]
fn version_needs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for (stdin, version) in [
        (Value::Null, "1.1.0"),
        (json!({"cniVersion": "0.4.0"}), "0.4.0"),
        (json!({"cniVersion": "7"}), "1.1.0"),
    ] {
        let output = call_of(dir.path(), "VERSION", stdin).answer(SHORT);
        let answer: Value = serde_json::from_str(&output.text).unwrap();
        assert!(output.success);
        assert_eq!(answer["cniVersion"], version);
        assert_eq!(answer["supportedVersions"].as_array().unwrap().len(), 7);
    }
    assert!(about().starts_with("CNI slash32 plugin v0."));
}

#[test]
fn standard_input_is_read_to_its_end_but_not_for_ever() {
    let (mut runtime, plugin) = std::os::unix::net::UnixStream::pair().unwrap();
    let text = format!("{{\"name\":\"{}\"}}", "x".repeat(3 * CHUNK));
    let sent = text.clone();
    let writer = thread::spawn(move || {
        for part in sent.as_bytes().chunks(1000) {
            runtime.write_all(part).unwrap();
        }
        runtime
    });
    let soon = || Instant::now() + Duration::from_millis(20);
    // Open and silent: an error, not a wait.
    let runtime = writer.join().unwrap();
    let error = read_text(plugin.try_clone().unwrap(), soon()).unwrap_err();
    assert_eq!((error.code, error.details.as_str()), (code::IO_FAILURE, "no end of file in time"));
    drop(runtime);
    let (mut runtime, plugin) = std::os::unix::net::UnixStream::pair().unwrap();
    runtime.write_all(text.as_bytes()).unwrap();
    drop(runtime);
    assert_eq!(read_text(plugin, soon()).unwrap(), text);
    let (mut runtime, plugin) = std::os::unix::net::UnixStream::pair().unwrap();
    runtime.write_all(b"\xff").unwrap();
    drop(runtime);
    assert_eq!(read_text(plugin, soon()).unwrap_err().code, code::DECODING_FAILURE);
}

/// The same answer whether the agent is there or not, and the environment before the configuration.
#[test]
fn what_is_wrong_by_itself_needs_no_agent() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |command: &str, change: fn(&mut CniRequest), stdin: &str| {
        let mut call = call_of(dir.path(), command, conf());
        call.stdin = Stdin::Text(stdin.to_owned());
        change(&mut call.request);
        code_of(&call.answer(SHORT))
    };
    let good = conf().to_string();
    for command in ["ADD", "CHECK", "DEL"] {
        assert_eq!(refused(command, |r| r.container_id.clear(), "{"), 4);
        assert_eq!(refused(command, |r| r.container_id = "a/b".into(), &good), 4);
        assert_eq!(refused(command, |r| r.ifname.clear(), &good), 4);
        assert_eq!(refused(command, |r| r.ifname = "a-name-much-too-long".into(), &good), 4);
    }
    assert_eq!(refused("ADD", |r| r.netns.clear(), &good), 4);
    assert_eq!(refused("CHECK", |r| r.netns.clear(), &good), 4);
    for command in ["ADD", "CHECK", "DEL", "GC", "STATUS"] {
        assert_eq!(refused(command, |_| (), ""), 6);
        assert_eq!(refused(command, |_| (), "[]"), 7);
        assert_eq!(refused(command, |_| (), r#"{"cniVersion":"1.1.0"}"#), 7);
        assert_eq!(refused(command, |_| (), r#"{"cniVersion":"9.0.0","name":"n"}"#), 1);
        assert_eq!(refused(command, |_| (), r#"{"cniVersion":"1.1.0","name":"-"}"#), 7);
    }
    assert_eq!(refused("", |_| (), &good), 4);
}

#[test]
fn requests_and_answers_pass_through() {
    let dir = tempfile::tempdir().unwrap();
    agent(dir.path(), |request| {
        let Request::Cni(request) = request else { panic!("not a CNI request") };
        match request.command.as_str() {
            "ADD" => line(CniAnswer::Success(json!({"cniVersion": "1.1.0", "id": request.container_id}))),
            "DEL" => line(CniAnswer::Success(Value::Null)),
            _ => line(CniAnswer::Failure(crate::api::CniFailure {
                code: 105,
                msg: "no".into(),
                details: "d".into(),
            })),
        }
    });
    let output = call_of(dir.path(), "ADD", conf()).answer(SHORT);
    assert!(output.success);
    assert_eq!(serde_json::from_str::<Value>(&output.text).unwrap()["id"], "c1");
    let output = call_of(dir.path(), "DEL", conf()).answer(SHORT);
    assert!(output.success && output.text.is_empty());
    let output = call_of(dir.path(), "CHECK", conf()).answer(SHORT);
    assert_eq!(code_of(&output), 105);
    let error: Value = serde_json::from_str(&output.text).unwrap();
    assert_eq!((&error["cniVersion"], &error["details"]), (&json!("1.1.0"), &json!("d")));
    assert_eq!(code_of(&call_of(dir.path(), "NEW", conf()).answer(SHORT)), 4);
    let mut call = call_of(dir.path(), "ADD", Value::Null);
    call.stdin = Stdin::Text("{".into());
    assert_eq!(code_of(&call.answer(SHORT)), 6);
}

#[test]
fn without_an_agent() {
    private(|| {
        let dir = tempfile::tempdir().unwrap();
        let absent = |command: &str| call_of(dir.path(), command, conf()).answer(SHORT);
        assert_eq!(code_of(&absent("ADD")), 11);
        assert_eq!(code_of(&absent("CHECK")), 11);
        assert_eq!(code_of(&absent("STATUS")), 50);
        // An endpoint that the agent made before it went away.
        let store = Store::open(dir.path(), None).unwrap();
        let attachment = sample("c1", 77);
        store.put(&attachment).unwrap();
        let mut socket = crate::netlink::Socket::route().unwrap();
        crate::netlink::link::create_veth(&mut socket, attachment.endpoint.id.as_str(), "peer", None)
            .unwrap();
        let end = crate::netlink::link::by_name(&mut socket, attachment.endpoint.id.as_str()).unwrap();
        crate::netlink::link::set_up(&mut socket, end.index).unwrap();
        for _ in 0..2 {
            let output = absent("DEL");
            assert!(output.success && output.text.is_empty(), "{output:?}");
        }
        let end = crate::netlink::link::by_name(&mut socket, attachment.endpoint.id.as_str()).unwrap();
        assert!(!end.is_up());
        assert_eq!(end.group, crate::cni::attach::RETIRED);
        assert!(store.tombstones().unwrap()[0].means(&attachment));
        // Even where there is no run directory at all.
        let nowhere = dir.path().join("nowhere");
        assert!(call_of(&nowhere, "DEL", conf()).answer(SHORT).success);
        assert!(!nowhere.exists());
        // But not for what cannot be meant.
        assert_eq!(code_of(&call_of(dir.path(), "DEL", json!({"name": "../x"})).answer(SHORT)), 7);
    });
}

#[test]
fn a_hung_agent_costs_a_bounded_wait() {
    private(|| {
        let dir = tempfile::tempdir().unwrap();
        // Nobody ever accepts.
        let _listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
        let output = call_of(dir.path(), "ADD", conf()).answer(SHORT);
        assert_eq!(code_of(&output), 11);
        assert!(output.text.contains("did not answer within"), "{}", output.text);
        assert!(call_of(dir.path(), "DEL", conf()).answer(SHORT).success);
        // An agent that dies over it.
        let dir = tempfile::tempdir().unwrap();
        agent(dir.path(), |_| String::new());
        assert_eq!(code_of(&call_of(dir.path(), "ADD", conf()).answer(SHORT)), 11);
        assert!(call_of(dir.path(), "DEL", conf()).answer(SHORT).success);
        // One that is not ready.
        let dir = tempfile::tempdir().unwrap();
        agent(dir.path(), |_| "{\"error\":{\"message\":\"starting\"}}\n".to_owned());
        assert_eq!(code_of(&call_of(dir.path(), "ADD", conf()).answer(SHORT)), 11);
        assert_eq!(code_of(&call_of(dir.path(), "DEL", conf()).answer(SHORT)), 11);
    });
}

/// An IPAM plugin that notes its calls.
fn fake_ipam(dir: &Path, body: &str) {
    let path = dir.join("fake-ipam");
    let script =
        format!("#!/bin/sh\necho \"$CNI_COMMAND $CNI_CONTAINERID\" >> {}/calls\n{body}\n", dir.display());
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn calls(dir: &Path) -> String {
    let text = fs::read_to_string(dir.join("calls")).unwrap_or_default().replace('\n', ";");
    let _ = fs::remove_file(dir.join("calls"));
    text
}

#[test]
fn delegated_ipam_is_run_and_rolled_back() {
    private(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut conf = conf();
        conf["ipam"] = json!({"type": "fake-ipam"});
        let run = |command: &str| call_of(dir.path(), command, conf.clone()).answer(SHORT);
        assert_eq!(code_of(&run("ADD")), 7);
        // What it has reserved is not given back, and only a DEL that fails comes again.
        assert_eq!(code_of(&run("DEL")), 7);
        fake_ipam(
            dir.path(),
            r#"cat > /dev/null; [ "$CNI_COMMAND" = ADD ] && echo '{"ips":[{"address":"10.9.9.9/24"}]}'
            [ "$CNI_COMMAND" = VERSION ] && echo '{"supportedVersions":["1.0.0","1.1.0"]}'; exit 0"#,
        );
        // No agent: what the plugin gave is given back.
        assert_eq!(code_of(&run("ADD")), 11);
        assert_eq!(calls(dir.path()), "ADD c1;DEL c1;");
        agent(dir.path(), |request| {
            let Request::Cni(request) = request else { panic!("not a CNI request") };
            if request.command == "ADD" && request.stdin.get(IPAM_RESULT_KEY).is_none() {
                let (code, msg) = (code::DELEGATE_FAILED, "no addresses".to_owned());
                return line(CniAnswer::Failure(CniFailure { code, msg, details: String::new() }));
            }
            line(CniAnswer::Success(request.stdin[IPAM_RESULT_KEY]["ips"][0]["address"].clone()))
        });
        let output = run("ADD");
        assert!(output.success && output.text.contains("10.9.9.9/24"), "{output:?}");
        assert!(run("DEL").success && run("CHECK").success && run("STATUS").success && run("GC").success);
        assert_eq!(calls(dir.path()), "ADD c1;DEL c1;CHECK c1;VERSION c1;STATUS c1;VERSION c1;GC c1;");
        // Its errors are ours, with its number; without one, ours.
        fake_ipam(dir.path(), r#"echo '{"code":77,"msg":"no address"}'; exit 1"#);
        assert_eq!(code_of(&run("ADD")), 77);
        fake_ipam(dir.path(), "echo oops; exit 1");
        assert_eq!(code_of(&run("ADD")), u64::from(code::DELEGATE_FAILED));
        fake_ipam(dir.path(), "kill -9 $$");
        assert!(run("ADD").text.contains("signal: 9"), "{:?}", run("ADD"));
        calls(dir.path());
        // One that does not know the newest version, nor its verbs.
        fake_ipam(
            dir.path(),
            r#"[ "$CNI_COMMAND" = VERSION ] && { echo '{"supportedVersions":["0.4.0","1.0.0"]}'; exit 0; }
            if grep -q '"cniVersion":"1.1.0"'; then echo '{"code":1,"msg":"too new"}'; exit 1; fi
            [ "$CNI_COMMAND" = ADD ] && echo '{"ips":[{"address":"10.9.9.8/24"}]}'; exit 0"#,
        );
        let output = run("ADD");
        assert!(output.success && output.text.contains("10.9.9.8/24"), "{output:?}");
        assert!(run("DEL").success && run("STATUS").success && run("GC").success);
        assert_eq!(calls(dir.path()), "ADD c1;ADD c1;DEL c1;DEL c1;VERSION c1;VERSION c1;");
        // One that hangs is ended, and what it may have reserved is given back.
        fake_ipam(dir.path(), "exec sleep 60");
        let waits = Waits { delegate: Duration::from_millis(50), ..SHORT };
        let output = call_of(dir.path(), "ADD", conf.clone()).answer(waits);
        assert!(output.text.contains("no answer within"), "{}", output.text);
        assert_eq!(calls(dir.path()), "ADD c1;DEL c1;");
    });
}

/// Whoever gave the addresses gets them back, whatever the configuration says by then; and once more if that fails.
#[test]
fn the_giver_is_told_of_the_end() {
    private(|| {
        let dir = tempfile::tempdir().unwrap();
        fake_ipam(dir.path(), "cat >> DIR/stdin; [ -e DIR/fails ] && exit 1; exit 0");
        let script = fs::read_to_string(dir.path().join("fake-ipam")).unwrap();
        fs::write(dir.path().join("fake-ipam"), script.replace("DIR", dir.path().to_str().unwrap())).unwrap();
        let (told, heard) = mpsc::channel();
        agent(dir.path(), move |request| {
            let Request::Cni(request) = request else { panic!("not a CNI request") };
            if request.stdin.get(DONE_KEY).is_some() {
                told.send(()).unwrap();
                return line(CniAnswer::Success(Value::Null));
            }
            let giver =
                json!({"cniVersion": "1.1.0", "name": "net", "ipam": {"type": "fake-ipam", "mine": 7}});
            let entry = json!({"containerID": "c1", "ifname": "eth0", "config": giver});
            line(CniAnswer::Success(json!({ REMOVED_KEY: [entry] })))
        });
        let run = |command: &str| call_of(dir.path(), command, conf()).answer(SHORT);
        fs::write(dir.path().join("fails"), "").unwrap();
        assert!(!run("DEL").success);
        heard.try_recv().unwrap_err();
        fs::remove_file(dir.path().join("fails")).unwrap();
        calls(dir.path());
        for command in ["DEL", "GC"] {
            fs::remove_file(dir.path().join("stdin")).unwrap();
            let output = run(command);
            assert!(output.success && output.text.is_empty(), "{output:?}");
            assert_eq!(calls(dir.path()), "DEL c1;");
            let stdin = fs::read_to_string(dir.path().join("stdin")).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&stdin).unwrap()["ipam"]["mine"], 7);
        }
        heard.try_recv().unwrap();
    });
}

#[test]
fn an_ipam_plugin_that_is_slash32_is_refused() {
    private(|| {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/proc/self/exe", dir.path().join("alias")).unwrap();
        let mut conf = conf();
        conf["ipam"] = json!({"type": "alias"});
        for command in ["ADD", "CHECK", "STATUS"] {
            let output = call_of(dir.path(), command, conf.clone()).answer(SHORT);
            assert_eq!(code_of(&output), 7);
            assert!(output.text.contains("\\\"alias\\\" calls slash32 again"), "{}", output.text);
        }
        // One that calls us from inside.
        conf["ipam"] = json!({"type": "wrapper"});
        for (command, refused) in
            [("ADD", true), ("CHECK", true), ("STATUS", true), ("DEL", false), ("GC", false)]
        {
            let mut call = call_of(dir.path(), command, conf.clone());
            call.inside = Some("wrapper".into());
            let output = call.answer(SHORT);
            assert_eq!(output.success, !refused, "{command}: {output:?}");
            assert!(!refused || code_of(&output) == 7 && output.text.contains("wrapper"), "{output:?}");
        }
        // And it is told in whose place it runs.
        fake_ipam(dir.path(), "echo \"{\\\"code\\\":9,\\\"msg\\\":\\\"in $SLASH32_IPAM_OF\\\"}\"; exit 1");
        conf["ipam"] = json!({"type": "fake-ipam"});
        let output = call_of(dir.path(), "ADD", conf).answer(SHORT);
        assert!(output.text.contains("in fake-ipam"), "{}", output.text);
    });
}

/// A small agent: the real handler on one thread, behind the real socket.
fn handler_agent(dir: &Path) -> mpsc::Sender<Question> {
    use crate::cni::{
        attach::AttachConfig,
        attachment::Attachment,
        handler::{Handler, HandlerConfig, Host, Now},
        ipam::{IpamConfig, PoolConfig},
    };
    struct Nothing;
    impl Host for Nothing {
        fn enforce(&mut self, _: &Attachment) -> Result<(), CniError> {
            Ok(())
        }
        fn unenforce(&mut self, _: &Attachment) -> Result<(), CniError> {
            Ok(())
        }
        fn announce(&mut self, _: &Attachment) -> Result<(), CniError> {
            Ok(())
        }
        fn withdraw(&mut self, _: &Attachment) -> Result<(), CniError> {
            Ok(())
        }
    }
    let (questions, queue) = mpsc::channel::<Question>();
    let run_dir = dir.to_owned();
    // Threads inherit the namespace, so this one is in the test's private one.
    thread::spawn(move || {
        let pool = |cidr: &str| PoolConfig {
            name: "default".into(),
            cidr: cidr.parse().unwrap(),
            blocks: vec![cidr.parse().unwrap()],
            exclude: vec![],
        };
        let mut handler = Handler::start(HandlerConfig {
            run_dir,
            state_dir: None,
            attach: AttachConfig::default(),
            ipam: IpamConfig {
                quarantine: Duration::from_secs(30),
                pools: vec![pool("10.32.0.0/16"), pool("fd00:32::/112")],
            },
            mtu: None,
            neighbours: vec![],
            infrastructure: vec![],
            label_rules: vec![],
            look: Duration::from_secs(15),
        })
        .unwrap();
        handler.recover(&mut Nothing, Now::read()).unwrap();
        for question in queue {
            match question {
                Question::Cni(request, answer) => {
                    let _ = answer.send(handler.handle(&mut Nothing, &request, &|| true, Now::read()));
                }
                Question::State(answer) => {
                    handler.finish();
                    assert_eq!(handler.audit(&mut Nothing, false, Now::read()).unwrap(), []);
                    assert_eq!(handler.ipam().leases().count(), handler.attachments().len() * 2);
                    let _ = answer.send(handler.attachments().len());
                }
            }
        }
    });
    let listener = UnixListener::bind(dir.join(SOCKET_NAME)).unwrap();
    let to_handler = questions.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, to_handler) = (stream.unwrap(), to_handler.clone());
            thread::spawn(move || {
                let mut text = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut text).unwrap();
                let Ok(Request::Cni(request)) = serde_json::from_str(&text) else { return };
                let (answer, result) = mpsc::channel();
                to_handler.send(Question::Cni(Box::new(request), answer)).unwrap();
                let _ = stream.write_all(line(result.recv().unwrap()).as_bytes());
            });
        }
    });
    questions
}

enum Question {
    Cni(Box<CniRequest>, mpsc::Sender<CniAnswer>),
    /// Whether everything fits together, and how many endpoints there are.
    State(mpsc::Sender<usize>),
}

/// 64 ADDs at once, each sent twice; then DELs of these, each sent twice, while 64 others are added.
#[test]
fn a_crowd_with_duplicates() {
    use crate::netlink::ns::testing::NamedNetns;
    private(|| {
        let dir = tempfile::tempdir().unwrap();
        let questions = handler_agent(dir.path());
        let endpoints = || {
            let (answer, result) = mpsc::channel();
            questions.send(Question::State(answer)).unwrap();
            result.recv().unwrap()
        };
        let patient = Waits { agent: Duration::from_secs(60), ..SHORT };
        let spaces: Vec<_> = (0..128).map(|_| NamedNetns::create("s32p").unwrap()).collect();
        let call = |command: &str, i: usize| {
            let mut call = call_of(dir.path(), command, conf());
            call.request.container_id = format!("c{i}");
            spaces[i].path().to_str().unwrap().clone_into(&mut call.request.netns);
            call.answer(patient)
        };
        let crowd = |work: &[(&'static str, usize)]| {
            thread::scope(|scope| {
                let threads: Vec<_> =
                    work.iter().map(|(command, i)| scope.spawn(|| call(command, *i))).collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
            })
        };
        let adds: Vec<_> = (0..64).chain(0..64).map(|i| ("ADD", i)).collect();
        let outputs = crowd(&adds);
        let mut addresses = std::collections::HashSet::new();
        for (i, output) in outputs.iter().enumerate() {
            assert!(output.success, "{output:?}");
            let value: Value = serde_json::from_str(&output.text).unwrap();
            let fresh = addresses.insert(value["ips"][0]["address"].as_str().unwrap().to_owned());
            // The second of two equal calls answers what the first did.
            assert_eq!(fresh, i < 64);
        }
        assert_eq!(endpoints(), 64);
        let mixed: Vec<_> = (0..64).flat_map(|i| [("DEL", i), ("ADD", 64 + i), ("DEL", i)]).collect();
        for output in crowd(&mixed) {
            assert!(output.success, "{output:?}");
        }
        assert_eq!(endpoints(), 64);
        let dels: Vec<_> = (0..128).map(|i| ("DEL", i)).collect();
        assert!(crowd(&dels).iter().all(|o| o.success));
        assert_eq!(endpoints(), 0);
        assert_eq!(fs::read_dir(dir.path().join("endpoints")).unwrap().count(), 0);
        let links = crate::netlink::link::list(&mut crate::netlink::Socket::route().unwrap()).unwrap();
        assert_eq!(links.len(), 1);
    });
}
