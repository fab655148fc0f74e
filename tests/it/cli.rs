//! The command line, as a person or a script meets it.
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dawson_imaging::study::Contrast;
use serde_json::Value;

use super::support::{file, models};

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("dawson-cli-{}", ulid::Ulid::generate()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    fn scans(&self) -> (String, String) {
        std::fs::write(self.0.join("flair.nii.gz"), file(Contrast::Flair)).unwrap();
        std::fs::write(self.0.join("t1w.nii.gz"), file(Contrast::T1w)).unwrap();
        (self.path("flair.nii.gz"), self.path("t1w.nii.gz"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

fn dawson(words: &[&str]) -> Output {
    command(words).output().unwrap()
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dawson"));
    command
        .args(words)
        .env("DAWSON_MODELS", models())
        .env("DAWSON_MODEL", "tiny-lesion");
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_study_is_segmented_and_its_report_is_the_only_thing_on_stdout() {
    let scratch = Scratch::new();
    let (flair, t1w) = scratch.scans();
    let out = scratch.path("out");
    let done = dawson(&[
        "segment", "--flair", &flair, "--t1w", &t1w, "--out", &out, "--json",
    ]);
    assert_eq!(code(&done), 0, "{}", text(&done.stderr));
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["schema"], "dawson-report/1");
    let again = dawson(&["segment", "--flair", &flair, "--out", &out]);
    assert_eq!(code(&again), 3);
    assert!(
        text(&again.stderr).contains("--overwrite"),
        "{}",
        text(&again.stderr)
    );
    let evaluated = dawson(&[
        "evaluate",
        "--prediction",
        &format!("{out}/lesions.nii.gz"),
        "--truth",
        &format!("{out}/lesions.nii.gz"),
        "--json",
    ]);
    let figures: Value = serde_json::from_slice(&evaluated.stdout).unwrap();
    assert_eq!(figures["figures"]["dsc"], 1.0);
    let lesions = format!("{out}/lesions.nii.gz");
    let table = dawson(&["evaluate", "--prediction", &lesions, "--truth", &lesions]);
    let table = text(&table.stdout);
    let dsc: Vec<&str> = table
        .lines()
        .filter(|l| l.starts_with("DSC (F1) "))
        .collect();
    assert!(
        matches!(dsc[..], [line] if line.contains("1.000")),
        "{table}"
    );
}

#[test]
fn networks_are_listed_shown_and_verified_and_a_damaged_one_is_named() {
    let listed = dawson(&["models", "list"]);
    assert!(text(&listed.stdout).starts_with("tiny-lesion@1.0.0 "));
    let shown = dawson(&["models", "show", "tiny-lesion"]);
    let card = models().join("tiny-lesion/1.0.0/MODEL_CARD.md");
    let card = std::fs::read_to_string(card).unwrap();
    assert!(
        text(&shown.stdout).contains(card.trim()),
        "{}",
        text(&shown.stdout)
    );
    let verified = dawson(&["models", "verify"]);
    assert_eq!(code(&verified), 0);
    assert!(text(&verified.stdout).contains("tiny-lesion@1.0.0: good on "));

    let scratch = Scratch::new();
    let folder = scratch.0.join("tiny-lesion/1.0.0");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["model.toml", "MODEL_CARD.md", "model.onnx"] {
        let mut bytes = std::fs::read(models().join("tiny-lesion/1.0.0").join(name)).unwrap();
        if name == "model.onnx" {
            bytes[100] ^= 1;
        }
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    let mut damaged = command(&["models", "verify"]);
    let damaged = damaged.env("DAWSON_MODELS", &scratch.0).output().unwrap();
    assert_eq!(code(&damaged), 4);
    let said = text(&damaged.stderr);
    assert!(
        said.contains("tiny-lesion@1.0.0") && said.contains("SHA-256"),
        "{said}"
    );
}

#[test]
fn a_table_of_studies_goes_on_after_a_failure_and_can_be_resumed() {
    let scratch = Scratch::new();
    scratch.scans();
    std::fs::write(scratch.0.join("broken.nii.gz"), b"nothing").unwrap();
    let table = scratch.path("cases.csv");
    std::fs::write(
        &table,
        "case,flair,t1w\none,flair.nii.gz,t1w.nii.gz\nbad,broken.nii.gz,\ntwo,flair.nii.gz,\n",
    )
    .unwrap();
    let out = scratch.path("out");
    let words = [
        "segment", "--cohort", &table, "--out", &out, "--jobs", "2", "--resume", "--json",
    ];
    let done = dawson(&words);
    assert_eq!(code(&done), 3, "{}", text(&done.stderr));
    let rows: Value = serde_json::from_slice(&done.stdout).unwrap();
    let states: Vec<&str> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["succeeded", "failed", "succeeded"]);
    assert_eq!(rows[1]["code"], "not_nifti");
    let rows: Value = serde_json::from_slice(&dawson(&words).stdout).unwrap();
    assert_eq!(
        (&rows[0]["state"], &rows[2]["state"]),
        (&Value::from("kept"), &Value::from("kept"))
    );
    let csv = std::fs::read_to_string(scratch.0.join("out/results.csv")).unwrap();
    assert_eq!(csv.lines().count(), 4);
}

#[test]
fn exit_codes_tell_usage_input_and_device_apart() {
    let scratch = Scratch::new();
    let (flair, _) = scratch.scans();
    let out = scratch.path("out");
    assert_eq!(code(&dawson(&["segment"])), 2);
    assert_eq!(
        code(&dawson(&[
            "segment",
            "--flair",
            &scratch.path("missing"),
            "--out",
            &out
        ])),
        3
    );
    assert_eq!(
        code(&dawson(&[
            "segment", "--flair", &flair, "--out", &out, "--device", "cuda"
        ])),
        4
    );
    assert_eq!(
        code(&dawson(&[
            "segment",
            "--flair",
            &flair,
            "--out",
            &out,
            "--threshold",
            "7"
        ])),
        3
    );
    let none = dawson(&[
        "segment",
        "--flair",
        &flair,
        "--out",
        &out,
        "--runtime-library",
        "/nowhere.so",
    ]);
    assert_eq!(code(&none), 4);
    assert!(
        text(&none.stderr).starts_with("error: "),
        "{}",
        text(&none.stderr)
    );
    assert!(text(&none.stderr).lines().count() == 1);
}

#[test]
fn every_command_explains_itself_with_an_example() {
    for command in [
        "serve", "segment", "evaluate", "models", "keys", "phantom", "doctor",
    ] {
        let help = dawson(&[command, "--help"]);
        assert_eq!(code(&help), 0);
        assert!(text(&help.stdout).contains("Example"), "{command}");
    }
    let completions = dawson(&["completions", "bash"]);
    assert!(text(&completions.stdout).contains("_dawson"));
}

#[test]
fn the_settings_say_where_they_come_from() {
    let scratch = Scratch::new();
    let config = scratch.path("d.toml");
    std::fs::write(&config, "workers = 3\n").unwrap();
    let shown = dawson(&[
        "serve",
        "--config",
        &config,
        "--listen",
        "127.0.0.1:0",
        "--print-config",
    ]);
    let shown = text(&shown.stdout);
    assert!(
        shown.contains("workers = \"3\"") && shown.contains("# flag --listen"),
        "{shown}"
    );
    let open = dawson(&[
        "serve",
        "--listen",
        "0.0.0.0:0",
        "--state",
        &scratch.path("state"),
    ]);
    assert_eq!(code(&open), 3);
    assert!(text(&open.stderr).contains("--insecure-no-auth"));
}

#[test]
fn the_doctor_finds_everything_that_the_setup_brings() {
    let seen = dawson(&["doctor"]);
    assert_eq!(
        code(&seen),
        0,
        "{}{}",
        text(&seen.stdout),
        text(&seen.stderr)
    );
    assert!(text(&seen.stdout).contains("answers its golden patch"));
    let broken = dawson(&["doctor", "--runtime-library", "/nowhere.so"]);
    assert_ne!(code(&broken), 0);
    assert!(text(&broken.stdout).contains("MISSING"));
}

#[test]
fn the_doctor_asks_the_anatomy_network_too() {
    let scratch = Scratch::new();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    for (from, id) in [
        (models(), "tiny-lesion/1.0.0"),
        (shipped, "brain-anatomy/0.2.0"),
    ] {
        std::fs::create_dir_all(scratch.0.join(id)).unwrap();
        for file in std::fs::read_dir(from.join(id)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), scratch.0.join(id).join(file.file_name())).unwrap();
        }
    }
    let doctor = || {
        let mut asked = command(&["doctor"]);
        asked.env("DAWSON_MODELS", &scratch.0).output().unwrap()
    };
    let seen = text(&doctor().stdout);
    assert!(
        seen.contains("model brain-anatomy@0.2.0, SHA-256 as described"),
        "{seen}"
    );
    assert!(
        seen.contains("model brain-anatomy@0.2.0 answers its golden patch"),
        "{seen}"
    );

    let manifest = scratch.0.join("brain-anatomy/0.2.0/model.toml");
    let honest = std::fs::read_to_string(&manifest).unwrap();
    let (before, mean) = honest.split_once("\nmean = 0.").unwrap();
    std::fs::write(&manifest, format!("{before}\nmean = 0.1{mean}")).unwrap();
    let seen = doctor();
    assert_eq!(code(&seen), 4, "{}", text(&seen.stdout));
    assert!(text(&seen.stdout).contains("MISSING model brain-anatomy@0.2.0 on "));
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_nobody_takes_ends_a_command_without_a_panic() {
    for arguments in [
        &["openapi"][..],
        &["completions", "bash"],
        &["models", "list", "--json"],
    ] {
        let run = |out: std::process::Stdio| {
            let ended = command(arguments).stdout(out).output().unwrap();
            let said = String::from_utf8(ended.stderr).unwrap();
            assert!(!said.contains("panicked"), "{arguments:?}: {said}");
            (ended.status.code(), said)
        };
        // A pipe whose reader has gone.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(run(writer.into()), (Some(141), String::new()));
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
        let (code, said) = run(full.unwrap().into());
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(said.contains("stdout takes no more"), "{said}");
    }
}
