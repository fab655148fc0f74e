//! A study as DICOM comes to the same lesions as the same study as NIfTI, and says which series it took.
//!
//! The files are written here, byte by byte, so that no reader of the program proves itself.
use std::io::{Cursor, Write};
use std::process::Command;

use axum::http::StatusCode;
use dawson_imaging::study::Contrast;
use dawson_imaging::volume::Volume;
use serde_json::{Value, json};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::support::{Form, Service, ServiceOptions, phantom};

/// An element of explicit little endian.
pub(super) fn element(group: u16, number: u16, vr: &[u8], value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    if value.len() % 2 == 1 {
        value.push(if vr == b"UI" { 0 } else { b' ' });
    }
    let mut all = [group.to_le_bytes(), number.to_le_bytes()].concat();
    all.extend_from_slice(vr);
    if vr == b"OW" {
        all.extend_from_slice(&[0, 0]);
        all.extend_from_slice(&(value.len() as u32).to_le_bytes());
    } else {
        all.extend_from_slice(&(value.len() as u16).to_le_bytes());
    }
    all.extend_from_slice(&value);
    all
}

/// A contrast with the times that tell it: echo, repetition, inversion, in ms.
fn times(contrast: Contrast) -> (&'static str, [f64; 3]) {
    match contrast {
        Contrast::Flair => ("SE\\IR", [120.0, 9000.0, 2500.0]),
        Contrast::T1w => ("GR\\IR", [3.0, 2300.0, 900.0]),
        _ => ("SE", [100.0, 6000.0, 0.0]),
    }
}

/// The UID of a contrast's series.
pub(super) fn series(contrast: Contrast) -> String {
    format!("1.2.840.99.{}", contrast as usize + 1)
}

/// One slice of a volume, its axes turned from RAS to LPS.
fn slice(contrast: Contrast, volume: &Volume<f32>, k: usize) -> Vec<u8> {
    let grid = volume.grid();
    let [ni, nj, _] = grid.shape();
    let at = grid.centre_of([0, 0, k]).0;
    let [di, dj, _] = grid.spacing_mm();
    let axes = grid.affine().matrix3;
    let [row, column] = [axes.x_axis.normalize(), axes.y_axis.normalize()];
    let cosines = [-row.x, -row.y, row.z, -column.x, -column.y, column.z].map(|c| c.to_string());
    let orientation = cosines.join("\\");
    let (sequence, [te, tr, ti]) = times(contrast);
    let uid = series(contrast);
    let mut all = vec![0; 128];
    all.extend_from_slice(b"DICM");
    let text: Vec<((u16, u16), &[u8; 2], String)> = vec![
        ((2, 0x10), b"UI", "1.2.840.10008.1.2.1".to_owned()),
        ((8, 8), b"CS", "ORIGINAL\\PRIMARY\\M\\ND".to_owned()),
        ((8, 0x16), b"UI", "1.2.840.10008.5.1.4.1.1.4".to_owned()),
        ((8, 0x18), b"UI", format!("{uid}.{}", k + 1)),
        ((8, 0x60), b"CS", "MR".to_owned()),
        ((8, 0x103e), b"LO", "Doe Jane brain".to_owned()),
        ((0x10, 0x10), b"PN", "Doe^Jane".to_owned()),
        ((0x10, 0x20), b"LO", "MRN-4711".to_owned()),
        ((0x18, 0x20), b"CS", sequence.to_owned()),
        ((0x18, 0x80), b"DS", tr.to_string()),
        ((0x18, 0x81), b"DS", te.to_string()),
        ((0x18, 0x82), b"DS", ti.to_string()),
        ((0x20, 0xd), b"UI", "1.2.840.99".to_owned()),
        ((0x20, 0xe), b"UI", uid),
        ((0x20, 0x13), b"IS", (k + 1).to_string()),
        (
            (0x20, 0x32),
            b"DS",
            format!("{}\\{}\\{}", -at.x, -at.y, at.z),
        ),
        ((0x20, 0x37), b"DS", orientation),
        ((0x28, 4), b"CS", "MONOCHROME2".to_owned()),
        ((0x28, 0x30), b"DS", format!("{dj}\\{di}")),
    ];
    for ((group, number), vr, value) in text {
        all.extend(element(group, number, vr, value.as_bytes()));
    }
    let numbers = [
        (2, 1),
        (0x10, nj),
        (0x11, ni),
        (0x100, 16),
        (0x101, 16),
        (0x102, 15),
        (0x103, 0),
    ];
    for (number, value) in numbers {
        all.extend(element(0x28, number, b"US", &(value as u16).to_le_bytes()));
    }
    let start = grid.offset([0, 0, k]);
    let stored = volume.samples()[start..start + ni * nj].iter();
    let bytes: Vec<u8> = stored
        .flat_map(|v| (v.round().clamp(0.0, 32767.0) as u16).to_le_bytes())
        .collect();
    all.extend(element(0x7fe0, 0x10, b"OW", &bytes));
    all
}

/// The phantom's contrasts as the files of a study, slices from the top down.
pub(crate) fn study(contrasts: &[Contrast]) -> Vec<Vec<u8>> {
    let scans = phantom()
        .scans
        .iter()
        .filter(|(c, _)| contrasts.contains(c));
    scans
        .flat_map(|(contrast, volume)| {
            let [_, _, nk] = volume.grid().shape();
            (0..nk).rev().map(|k| slice(*contrast, volume, k))
        })
        .collect()
}

pub(crate) fn zipped(files: &[Vec<u8>]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (n, file) in files.iter().enumerate() {
        let stored =
            SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file(format!("Doe^Jane/{n}"), stored).unwrap();
        zip.write_all(file).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

pub(crate) const ALL: [Contrast; 3] = [Contrast::Flair, Contrast::T1w, Contrast::T2w];

fn lesions(job: &Value) -> Value {
    assert_eq!(job["state"], "succeeded", "{job}");
    job["report"]["lesions"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dicom_study_comes_to_the_lesions_of_its_nifti() {
    let service = Service::start(ServiceOptions::default()).await;
    let nifti = service.run(Form::of(&ALL)).await.json();
    let zip = zipped(&study(&ALL));
    let answer = service.run(Form::default().part("study", &zip)).await;
    assert_eq!(answer.status, StatusCode::OK);
    let dicom = answer.json();
    // Positions as decimal text differ from an affine's floats in the last digit, and an alignment starts there.
    let (ours, theirs) = (lesions(&dicom), lesions(&nifti));
    assert_eq!(ours["count"], theirs["count"]);
    // Slices may run the other way, so lesions of one volume may change places.
    let items = |found: &Value| found["items"].as_array().unwrap().clone();
    let ml = |lesion: &Value| lesion["volume_ml"].as_f64().unwrap();
    let at = |lesion: &Value, axis: usize| lesion["centroid_mm"][axis].as_f64().unwrap();
    for a in items(&ours) {
        let same = |b: &Value| {
            (ml(&a) - ml(b)).abs() < 0.06 && (0..3).all(|n| (at(&a, n) - at(b, n)).abs() < 0.5)
        };
        assert!(items(&theirs).iter().any(same), "{a}");
    }
    let report = &dicom["report"]["study"];
    let rows = report["series"].as_array().unwrap();
    let chosen: Vec<_> = rows
        .iter()
        .map(|row| (&row["contrast"], &row["decision"]))
        .collect();
    let names = ALL.map(Contrast::name);
    assert_eq!(chosen.len(), 3);
    for (row, (contrast, name)) in rows.iter().zip(ALL.iter().zip(names)) {
        assert_eq!(
            (&row["contrast"], &row["decision"]),
            (&json!(name), &json!("chosen"))
        );
        assert_eq!(row["series_instance_uid"], series(*contrast));
    }
    assert_eq!(
        report["contrasts"][0]["affine_from"],
        "image_position_patient"
    );
    let said = answer.json().to_string();
    assert!(!said.contains("Jane") && !said.contains("4711"), "{said}");
    assert!(nifti["report"]["study"].get("series").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn results_of_a_dicom_study_are_dicom_objects_of_the_same_patient() {
    let service = Service::start(ServiceOptions::default()).await;
    let form = Form::default().part("study", &zipped(&study(&[Contrast::Flair])));
    let job = service.run(form).await.json();
    let found = lesions(&job)["count"].as_u64().unwrap();
    assert!(found > 0, "the phantom has lesions");
    let listed = service
        .get(job["links"]["artifacts"].as_str().unwrap())
        .await
        .json();
    let objects: Vec<&Value> = listed["artifacts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|a| a["media_type"] == "application/dicom")
        .collect();
    let names: Vec<&str> = objects
        .iter()
        .map(|a| a["name"].as_str().unwrap())
        .collect();
    let expected = [
        "dicom_pdf.dcm",
        "dicom_seg.dcm",
        "dicom_seg_lesions.dcm",
        "dicom_sr.dcm",
    ];
    assert_eq!(names, expected);
    for object in objects {
        let bytes = service.get(object["href"].as_str().unwrap()).await.body;
        assert_eq!(&bytes[128..132], b"DICM");
        let holds = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        // Whose it is, and the series that it lies on.
        for text in [
            "Doe^Jane",
            "MRN-4711",
            "1.2.840.99",
            &series(Contrast::Flair),
        ] {
            assert!(holds(text), "{} lacks {text}", object["name"]);
        }
    }
    let asked = Form::of(&[Contrast::Flair]).options(&json!({ "outputs": ["dicom_seg"] }));
    let job = service.run(asked).await.json();
    assert_eq!(lesions(&job)["count"].as_u64(), Some(found));
    let warnings = job["report"]["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|w| w["code"] == "not_dicom"), "{job}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_one_by_one_are_the_same_study() {
    let service = Service::start(ServiceOptions::default()).await;
    let files = study(&[Contrast::Flair]);
    let single = files
        .iter()
        .fold(Form::default(), |form, file| form.part("dicom", file));
    let single = service.run(single).await.json();
    let zip = service
        .run(Form::default().part("study", &zipped(&files)))
        .await;
    assert_eq!(lesions(&single), lesions(&zip.json()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_names_the_series_of_a_contrast() {
    let service = Service::start(ServiceOptions::default()).await;
    // By its times the T2 is none, so the caller's word is what makes it the FLAIR.
    let form = Form::default().part("study", &zipped(&study(&[Contrast::Flair, Contrast::T2w])));
    let wish = json!({ "series": { "flair": series(Contrast::T2w) } });
    let job = service.run(form.options(&wish)).await.json();
    let rows = job["report"]["study"]["series"].as_array().unwrap();
    let decisions: Vec<&str> = rows
        .iter()
        .map(|row| row["decision"].as_str().unwrap())
        .collect();
    assert_eq!(decisions, ["runner_up", "chosen"]);
    assert_eq!(rows[1]["confidence"], "stated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_of_another_series_is_a_warning_and_its_series_is_not_used() {
    let service = Service::start(ServiceOptions::default()).await;
    let flair = study(&[Contrast::Flair]);
    let mut files = study(&[Contrast::Flair, Contrast::T1w]);
    // The last slice: its absence would leave no gap.
    let last = files.last_mut().unwrap();
    last.truncate(last.len() - 2);
    let number = files.len();
    let job = service
        .run(Form::default().part("study", &zipped(&files)))
        .await
        .json();
    assert_eq!(job["state"], "succeeded", "{job}");
    let warnings = job["report"]["warnings"].as_array().unwrap();
    let said = warnings.iter().find(|w| w["code"] == "damaged_image");
    let said = said.unwrap()["detail"].as_str().unwrap();
    assert!(
        said.contains(&format!("file {number} ")) && said.contains(&series(Contrast::T1w)),
        "{said}"
    );
    let rows = job["report"]["study"]["series"].as_array().unwrap();
    let told: Vec<_> = rows
        .iter()
        .map(|row| (&row["decision"], &row["reason"]))
        .collect();
    assert_eq!(
        told,
        [
            (&json!("chosen"), &Value::Null),
            (&json!("refused"), &json!("damaged_image"))
        ]
    );
    let alone = service
        .run(Form::default().part("study", &zipped(&flair)))
        .await;
    assert_eq!(lesions(&job), lesions(&alone.json()));
    // Who asks for that series is not given a part of it.
    let wish = json!({ "series": { "t1w": series(Contrast::T1w) } });
    let form = Form::default()
        .part("study", &zipped(&files))
        .options(&wish);
    let answer = service.send(form.request(&[])).await;
    assert_eq!(answer.problem(), (422, "damaged_dicom".to_owned()));
    assert!(
        answer.json()["detail"]
            .as_str()
            .unwrap()
            .contains(&format!("file {number}"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_study_is_refused_before_it_is_a_job() {
    let service = Service::idle(ServiceOptions::default()).await;
    let flair = study(&[Contrast::Flair]);
    let mut gap = flair.clone();
    gap.remove(20);
    let mut cut = flair.clone();
    cut[3].truncate(900);
    let mut other = flair.clone();
    let uid = b"1.2.840.99\0\0";
    let at = other[0].windows(10).position(|w| w == &uid[..10]).unwrap();
    // The first of them is the StudyInstanceUID's, whose next element is the series'.
    let at = other[0][at..]
        .windows(4)
        .position(|w| w == [0x20, 0, 0x0d, 0])
        .unwrap()
        + at
        + 8;
    other[0][at + 9] = b'8';
    let zip = |files: &[Vec<u8>]| Form::default().part("study", &zipped(files));
    let unknown = json!({ "series": { "flair": "1.2.3" } });
    let cases = [
        (zip(&[b"%PDF".to_vec()]), 422, "not_dicom", "no MR image"),
        (zip(&gap), 422, "unusable_series", "1 slices are missing"),
        (zip(&cut), 422, "damaged_dicom", "file 4"),
        (zip(&other), 422, "several_studies", "StudyInstanceUID"),
        (zip(&study(&[Contrast::T2w])), 422, "missing_flair", "FLAIR"),
        (
            zip(&flair).options(&unknown),
            422,
            "unknown_series",
            "1.2.3",
        ),
        (
            Form::default().part("study", b"PK\x03\x04no"),
            422,
            "damaged_archive",
            "damaged",
        ),
        (
            zip(&[zipped(&flair)]),
            422,
            "damaged_archive",
            "another archive",
        ),
        (
            zip(&flair).part("dicom", &flair[0]),
            400,
            "malformed_request",
            "either",
        ),
        (
            Form::of(&[Contrast::Flair]).part("study", &zipped(&flair)),
            400,
            "malformed_request",
            "either",
        ),
    ];
    for (form, status, code, word) in cases {
        let answer = service.send(form.request(&[])).await;
        let (found_status, found) = answer.problem();
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!((found_status, found.as_str()), (status, code), "{detail}");
        assert!(
            detail.contains(word) && !detail.contains("Jane"),
            "{code}: {detail}"
        );
    }
    let many = (0..101).fold(Form::default(), |form, _| form.part("dicom", &flair[0]));
    assert_eq!(
        service.send(many.request(&[])).await.problem().1,
        "body_too_large"
    );
}

#[test]
fn the_command_line_reads_a_folder_and_a_zip() {
    let place = std::env::temp_dir().join(format!("dawson-it-{}", ulid::Ulid::generate()));
    let files = study(&[Contrast::Flair]);
    std::fs::create_dir_all(place.join("study/below")).unwrap();
    for (n, file) in files.iter().enumerate() {
        let folder = if n % 2 == 0 { "study" } else { "study/below" };
        std::fs::write(place.join(folder).join(n.to_string()), file).unwrap();
    }
    std::fs::write(place.join("study/notes.txt"), "not an image").unwrap();
    std::fs::write(place.join("study.zip"), zipped(&files)).unwrap();
    let reports = ["study", "study.zip"].map(|name| {
        let found = Command::new(env!("CARGO_BIN_EXE_dawson"))
            .args(["segment", "--json", "--model", "tiny-lesion", "--models"])
            .arg(super::support::models())
            .arg("--dicom")
            .arg(place.join(name))
            .arg("--out")
            .arg(place.join(format!("out-{name}")))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&found.stderr).into_owned();
        assert!(found.status.success(), "{said}");
        let report: Value = serde_json::from_slice(&found.stdout).unwrap();
        assert_eq!(report["study"]["series"][0]["decision"], "chosen");
        report["lesions"].clone()
    });
    std::fs::remove_dir_all(&place).unwrap();
    assert_eq!(reports[0], reports[1]);
    assert!(reports[0]["count"].as_u64().unwrap() > 0);
}
