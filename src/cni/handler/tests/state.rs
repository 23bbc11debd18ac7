//! What outlives the run directory.

use super::*;
use crate::cni::handler::AttentionKind;

/// A host with a state directory; its run directory is that of the [`World`].
struct Machine {
    world: World,
    state: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let mut machine = Self { world: World::new(), state: tempfile::tempdir().unwrap() };
        machine.start();
        machine
    }

    fn start(&mut self) -> Recovery {
        let state_dir = Some(self.state.path().to_owned());
        self.world.handler =
            Handler::start(HandlerConfig { state_dir, ..config(self.world.dir.path()) }).unwrap();
        self.world.host = Notes::default();
        self.world.handler.recover(&mut self.world.host, Now::read()).unwrap()
    }

    /// The agent ends when everything has been written, and the run directory is lost.
    fn lose_run_dir(&mut self) {
        self.world.handler.tick(&mut self.world.host, Now::read());
        self.world.handler.store.settle();
        self.world.kill();
        for entry in fs::read_dir(self.world.dir.path()).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).or_else(|_| fs::remove_file(self.elsewhere())).unwrap();
        }
    }

    fn elsewhere(&self) -> std::path::PathBuf {
        self.world.dir.path().join("elsewhere.json")
    }

    /// As if another boot had written the copies.
    fn age(&self) {
        let [copies] = &fs::read_dir(self.state.path().join("copies")).unwrap().collect::<Vec<_>>()[..]
        else {
            panic!("one boot")
        };
        let copies = copies.as_ref().unwrap().path();
        fs::rename(&copies, copies.with_file_name("another-boot")).unwrap();
    }
}

#[test]
fn a_lost_run_directory_costs_nothing() {
    private(|| {
        let mut machine = Machine::new();
        let (a, b) = (container(), container());
        for (id, ns) in [("a", &a), ("b", &b)] {
            let ports = json!({"portMappings": [{"hostPort": 8099, "containerPort": 80, "protocol": "tcp"}]});
            let labelled = CniRequest { args: "S32_LABELS=role=web".into(), ..request("ADD", id, ns) };
            machine.world.call(&with(labelled, "runtimeConfig", ports)).unwrap();
        }
        let before: Vec<Attachment> = machine.world.handler.attachments().cloned().collect();
        machine.lose_run_dir();
        let recovery = machine.start();
        assert_eq!((recovery.adopted, recovery.rebuilt.len()), (2, 0), "{recovery:?}");
        assert!(machine.world.handler.attachments().eq(&before));
        assert_eq!(machine.world.handler.attention(), []);
        machine.world.assert_consistent();
        // What is gone has no copy any more, once that is written.
        machine.world.call(&request("DEL", "a", &a)).unwrap();
        machine.lose_run_dir();
        let kept = fs::read_dir(machine.state.path().join("copies"))
            .unwrap()
            .map(|boot| fs::read_dir(boot.unwrap().path()).unwrap().count());
        assert_eq!(kept.collect::<Vec<_>>(), [1]);
        assert_eq!(machine.start().adopted, 1);
        machine.world.call(&request("DEL", "b", &b)).unwrap();
        machine.world.assert_clean();
    });
}

#[test]
fn copies_of_another_boot_are_nobodys() {
    private(|| {
        let mut machine = Machine::new();
        let ns = container();
        let ports = json!({"portMappings": [{"hostPort": 8099, "containerPort": 80, "protocol": "tcp"}]});
        machine.world.call(&with(request("ADD", "a", &ns), "runtimeConfig", ports)).unwrap();
        machine.lose_run_dir();
        machine.age();
        // An interface of that name and index would be another container's.
        let recovery = machine.start();
        assert_eq!(recovery.rebuilt.len(), 1, "{recovery:?}");
        let [attention] = &machine.world.handler.attention()[..] else { panic!("one") };
        assert_eq!(attention.kind, AttentionKind::Rebuilt);
        assert!(machine.world.handler.attachments().all(|a| a.port_mappings.is_empty()));
        machine.world.handler.tick(&mut machine.world.host, Now::read());
        machine.world.handler.store.settle();
        assert!(!machine.state.path().join("copies/another-boot").exists());
        machine.world.call(&request("DEL", "a", &ns)).unwrap();
        machine.world.assert_clean();
    });
}

#[test]
fn what_others_have_is_known_after_a_reboot() {
    private(|| {
        let mut machine = Machine::new();
        let first: Vec<IpAddr> =
            ["10.32.4.0", "10.32.4.1", "fd00:32::4:0"].map(|a| a.parse().unwrap()).into();
        for addr in &first {
            let World { handler, host, .. } = &mut machine.world;
            handler.announced_elsewhere(host, *addr, Some(7), Now::read()).unwrap();
        }
        machine.lose_run_dir();
        machine.start();
        let ns = container();
        let result = machine.world.call(&request("ADD", "a", &ns)).unwrap();
        assert_eq!(result["ips"][0]["address"], "10.32.4.2/32", "{result}");
        assert_eq!(result["ips"][1]["address"], "fd00:32::4:1/128", "{result}");
        // Nobody has announced the addresses since: they are free again.
        let later = Now { mono: Instant::now() + Duration::from_secs(61), wall: SystemTime::now() };
        machine.world.handler.tick(&mut machine.world.host, later);
        assert_eq!(machine.world.handler.ipam().elsewhere().count(), 0);
        machine.world.call(&request("DEL", "a", &ns)).unwrap();
        machine.world.assert_clean();
    });
}
