//! A PostgreSQL server of the test's own, from the packages of the system.
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// A server that listens at a socket in its folder, and one database for each test.
pub(crate) struct Postgres {
    folder: PathBuf,
}

impl Postgres {
    /// The server of this test run; `None`, with a word about it, where PostgreSQL is not installed.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
        SERVER.get_or_init(Self::start).as_ref()
    }

    fn start() -> Option<Self> {
        let Some(bin) = programs() else {
            eprintln!("skipped: PostgreSQL is not installed (apt-get install postgresql)");
            return None;
        };
        let folder = std::env::temp_dir().join(format!("dawson-postgres-{}", std::process::id()));
        let data = folder.join("data");
        std::fs::create_dir_all(&data).unwrap();
        give_away(&folder);
        give_away(&data);
        run(Command::new(bin.join("initdb"))
            .args(["-A", "trust", "-U", "dawson", "--no-sync", "-D"])
            .arg(&data));
        // It ends with the process that started it: the shell waits for the test's end on its input.
        let script = "\"$1\" -D \"$2\" -k \"$3\" -c listen_addresses= -c fsync=off -c max_connections=200 >\"$3/log\" 2>&1 & \
                      cat >/dev/null; kill -INT $!; wait; rm -rf \"$3\"";
        let mut server = as_owner(
            Command::new("sh")
                .args(["-c", script, "sh"])
                .arg(bin.join("postgres"))
                .arg(&data)
                .arg(&folder),
        );
        let child = server.stdin(Stdio::piped()).spawn().unwrap();
        std::mem::forget(child);
        let ready = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            Command::new(bin.join("pg_isready"))
                .arg("-q")
                .arg("-h")
                .arg(&folder)
                .status()
                .is_ok_and(|s| s.success())
        });
        assert!(
            ready,
            "PostgreSQL did not start: {:?}",
            std::fs::read_to_string(folder.join("log"))
        );
        Some(Self { folder })
    }

    /// The address of a new, empty database.
    pub(crate) fn database(&self) -> String {
        let name = format!("d{}", ulid::Ulid::generate().to_string().to_lowercase());
        let bin = programs().unwrap();
        run(Command::new(bin.join("createdb"))
            .arg("-h")
            .arg(&self.folder)
            .args(["-U", "dawson", &name]));
        let host = self.folder.to_string_lossy().replace('/', "%2F");
        format!("postgres://dawson@{host}/{name}")
    }
}

fn programs() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|e| Some(e.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").is_file())
        .collect();
    versions.sort();
    versions.pop()
}

fn run(command: &mut Command) {
    let mut command = as_owner(command);
    let done = command.output().unwrap();
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// PostgreSQL refuses to run as root: then it runs as the user that its package made.
fn as_owner(command: &Command) -> Command {
    let mut wrapped = if is_root() {
        let mut wrapped = Command::new("runuser");
        wrapped
            .args(["-u", "postgres", "--"])
            .arg(command.get_program());
        wrapped
    } else {
        Command::new(command.get_program())
    };
    wrapped.args(command.get_args()).current_dir("/");
    wrapped
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

fn give_away(folder: &Path) {
    if !is_root() {
        return;
    }
    let id = |flag| {
        let out = Command::new("id")
            .args([flag, "postgres"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout)
            .trim()
            .parse::<u32>()
            .unwrap()
    };
    chown(folder, Some(id("-u")), Some(id("-g"))).unwrap();
}
