//! Networks exchanged while the service runs.
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use dawson_imaging::study::Contrast;
use serde_json::{Value, json};

use super::support::{Answer, Form, Service, ServiceOptions, models};

/// A folder of networks of its own.
struct Installed(PathBuf);

impl Installed {
    /// With the tiny network.
    fn new() -> Self {
        let scratch =
            std::env::temp_dir().join(format!("dawson-networks-{}", ulid::Ulid::generate()));
        let installed = Self(scratch);
        installed.add("1.0.0");
        installed
    }

    fn version(&self, version: &str) -> PathBuf {
        self.0.join("tiny-lesion").join(version)
    }

    /// Another version of the tiny network, the same but for its name.
    fn add(&self, version: &str) -> PathBuf {
        let (from, to) = (models().join("tiny-lesion/1.0.0"), self.version(version));
        std::fs::create_dir_all(&to).unwrap();
        let described = std::fs::read_to_string(from.join("model.toml")).unwrap();
        let described = described.replace(r#""1.0.0""#, &format!("{version:?}"));
        std::fs::write(to.join("model.toml"), described).unwrap();
        std::fs::copy(from.join("model.onnx"), to.join("model.onnx")).unwrap();
        to
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

async fn reload(service: &Service) -> Answer {
    let request = Request::post("/v1/models/reload").body(Body::empty());
    service.send(request.unwrap()).await
}

fn versions(answer: &Answer) -> Vec<String> {
    let models = answer.json()["models"].as_array().unwrap().clone();
    let version = |m: &Value| m["version"].as_str().unwrap().to_owned();
    models.iter().map(version).collect()
}

fn damage(onnx: &Path) {
    let mut bytes = std::fs::read(onnx).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(onnx, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn new_networks_serve_the_next_job_and_damaged_ones_change_nothing() {
    let installed = Installed::new();
    let service = Service::start(ServiceOptions {
        models: installed.0.clone(),
        ..ServiceOptions::default()
    })
    .await;
    let flair = || Form::of(&[Contrast::Flair]);
    let used = |answer: &Answer| answer.json()["report"]["model"]["version"].clone();
    assert_eq!(used(&service.run(flair()).await), "1.0.0");

    let second = installed.add("2.0.0");
    assert_eq!(
        used(&service.run(flair()).await),
        "1.0.0",
        "before it is told"
    );
    let told = reload(&service).await;
    assert_eq!(told.status, StatusCode::OK);
    assert_eq!(versions(&told), ["1.0.0", "2.0.0"]);
    assert_eq!(used(&service.run(flair()).await), "2.0.0");

    damage(&installed.add("3.0.0").join("model.onnx"));
    let told = reload(&service).await;
    assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
    let problem = told.json();
    assert_eq!(problem["code"], "model_invalid");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("tiny-lesion@3.0.0"), "{detail}");
    let hidden = installed.0.to_string_lossy().into_owned();
    assert!(!detail.contains(&hidden), "{detail}");
    let listed = service.get("/v1/models").await;
    assert_eq!(versions(&listed), ["1.0.0", "2.0.0"]);

    std::fs::remove_dir_all(installed.version("3.0.0")).unwrap();
    std::fs::remove_dir_all(second).unwrap();
    assert_eq!(versions(&reload(&service).await), ["1.0.0"]);
    std::fs::remove_dir_all(installed.version("1.0.0")).unwrap();
    let told = reload(&service).await;
    assert_eq!(told.json()["code"], "model_invalid", "nothing is left");
    assert_eq!(used(&service.run(flair()).await), "1.0.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_network_is_gone_says_so() {
    let installed = Installed::new();
    installed.add("2.0.0");
    let options = || ServiceOptions {
        models: installed.0.clone(),
        ..ServiceOptions::default()
    };
    let idle = Service::idle(options()).await;
    let form = Form::of(&[Contrast::Flair]).options(&json!({ "model": "tiny-lesion@2.0.0" }));
    let queued = idle.send(form.request(&[])).await;
    assert_eq!(queued.status, StatusCode::ACCEPTED);
    let id = queued.json()["id"].as_str().unwrap().to_owned();
    std::fs::remove_dir_all(installed.version("2.0.0")).unwrap();
    assert_eq!(reload(&idle).await.status, StatusCode::OK);
    tokio::spawn(std::sync::Arc::clone(&idle.jobs).run());
    let path = format!("/v1/segmentations/{id}");
    let wait = Request::get(path).header("prefer", "wait=60");
    let job = idle.send(wait.body(Body::empty()).unwrap()).await.json();
    assert_eq!(job["error"]["code"], "unknown_model", "{job}");
    idle.jobs.close();
}
