//! What needs no sidecar: usage, configuration, and reading files.

use super::*;

#[test]
fn wrong_usage_is_exit_2_and_still_one_object() {
    let place = Place::new();
    for line in [
        "handover shop --freeze-timeout 50 -o json",
        "wait shop --for happy --output=json",
        "fly -ojson",
        "verify -o json",
    ] {
        let ran = place.run(line).code(2);
        assert!(!ran.err.is_empty());
        assert_eq!((&ran.json()["outcome"], &ran.json()["exit_code"]), (&"usage".into(), &2.into()), "{line}");
    }
    assert_eq!(place.run("fly").code(2).out, "");
    place.run("status --help").code(0).says(&["Show regions"]);
}

#[test]
fn plain_tcp_is_refused() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
    let ran = Ran::of(command.args(["status", "--socket", "http://127.0.0.1:1"]).output().unwrap());
    ran.code(2).says(&["expected PATH or https://HOST:PORT, found http://"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
    let ran = Ran::of(command.args(["status", "--socket", "https://127.0.0.1:1"]).output().unwrap());
    ran.code(5).says(&["UNREACHABLE"]);
}

#[test]
fn the_configuration_is_shown_and_checked() {
    let place = Place::new();
    place.run("config show --default").code(0).says(&["[region]", "freeze_timeout = \"50ms\""]);
    let file = place.dir.path().join("h.toml");
    std::fs::write(&file, "[server]\nsockt = \"x\"\n").unwrap();
    place.run(&format!("config check {}", file.display())).code(2).says(&["h.toml:2", "sockt"]);
    let dir = place.dir.path().display();
    std::fs::write(&file, format!("[server]\nsocket = \"{dir}/h.sock\"\nregion_dir = \"{dir}\"\n")).unwrap();
    place.run(&format!("config check {}", file.display())).code(0).says(&["server.socket", "good"]);
}

mod files {
    //! Region files, whole and damaged. Reading never changes them.

    use std::path::Path;

    use heirloom_region::layout::RegionSpec;
    use heirloom_region::mapping::Mapping;

    use super::*;

    fn made(place: &Place) -> PathBuf {
        Mapping::create_file(place.dir.path(), &RegionSpec::new("shop", 16 << 20)).unwrap();
        place.dir.path().join("shop")
    }

    fn edit(path: &Path, at: usize, change: impl FnOnce(&mut u8)) {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64).unwrap();
        change(&mut byte[0]);
        file.write_all_at(&byte, at as u64).unwrap();
    }

    #[test]
    fn a_whole_file_is_dumped_and_verified() {
        let place = Place::new();
        let file = made(&place);
        let state = || {
            use std::os::unix::fs::MetadataExt as _;
            let found = std::fs::metadata(&file).unwrap();
            (found.mtime(), found.mtime_nsec(), found.blocks(), found.len())
        };
        let before = state();
        let ran = place.run(&format!("dump {} --objects --pages -o json", file.display())).code(0);
        let object = ran.json();
        assert_eq!((&object["header"]["region"], &object["gate"]["generation"]), (&"shop".into(), &1.into()));
        assert_eq!((&object["gate"]["phase"], &object["same_boot"]), (&"open".into(), &true.into()));
        let current = object["superblocks"].as_array().unwrap().iter().find(|s| s["state"] == "current").unwrap();
        assert_eq!((&current["generation"], &current["owner"]), (&1.into(), &Value::Null));
        assert!(object["metrics"].as_array().unwrap().is_empty() && object["pages"].is_array());
        place.run(&format!("dump {} --pages", file.display())).code(0).says(&["SUPERBLOCK", "current", "PAGES"]);
        let ran = place.run(&format!("verify --file {} -o json", file.display())).code(0);
        assert_eq!((&ran.json()["outcome"], &ran.json()["fault_count"]), (&"intact".into(), &0.into()));
        assert_eq!(before, state(), "reading changed the file");
    }

    /// Whole, and yet not served: who keeps a copy is told, and the copy is good.
    #[test]
    fn a_copy_under_another_name_is_intact_and_told_of() {
        let place = Place::new();
        let file = made(&place);
        let ran = place.run(&format!("verify --file {} -o json", file.display())).code(0);
        assert_eq!(ran.json()["note"], Value::Null);
        let copy = place.dir.path().join("shop.backup");
        std::fs::copy(&file, &copy).unwrap();
        let ran = place.run(&format!("verify --file {} -o json", copy.display())).code(0);
        let object = ran.json();
        assert_eq!(object["outcome"], "intact");
        let note = object["note"].as_str().expect("a note");
        assert!(note.contains("this is region shop") && note.contains("set it aside as shop.backup"), "{note}");
        place.run(&format!("verify --file {}", copy.display())).code(0).says(&["note: this is region shop"]);
    }

    #[test]
    fn a_check_of_the_start_tells_corrupt_regions_from_a_wrong_configuration() {
        let place = Place::new();
        let file = made(&place);
        let config = place.dir.path().join(".h.toml");
        let dir = place.dir.path().display();
        let server = format!("[server]\nsocket = \"{dir}/h.sock\"\nregion_dir = \"{dir}\"\n");
        std::fs::write(&config, &server).unwrap();
        std::fs::write(place.dir.path().join("Notes.txt"), "not ours").unwrap();
        let check = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
            command.args(["serve", "--check", "-o", "json", "--config"]).arg(&config).env_remove("HEIRLOOM_SOCKET");
            Ran::of(command.output().unwrap())
        };
        check().code(0).says(&["not a region's name, left alone"]);
        let copy = place.dir.path().join("shop.backup");
        std::fs::copy(&file, &copy).unwrap();
        check().code(6).says(&["REGION_CORRUPT", "found shop, expected shop.backup"]);
        std::fs::remove_file(&copy).unwrap();
        edit(&file, 8, |b| *b = 99);
        check().code(3).says(&["FORMAT_INCOMPATIBLE"]);
        let worse = place.dir.path().join("cart");
        std::fs::write(&worse, b"HEIR").unwrap();
        let ran = check().code(6).says(&["FORMAT_INCOMPATIBLE", "expected 4096"]);
        assert_eq!((&ran.json()["outcome"], &ran.json()["reason"]), (&"corrupt".into(), &"REGION_CORRUPT".into()));
        std::fs::write(&config, format!("{server}http_listen = \"nowhere\"\n")).unwrap();
        let ran = check().code(2).says(&["server.http_listen", "expected 4096"]);
        assert_eq!(ran.json()["outcome"], "usage");
    }

    #[test]
    fn damaged_files_are_named_and_nothing_hangs() {
        let place = Place::new();
        for (what, damage, code, words) in [
            ("foreign", (|f: &Path| edit(f, 0, |b| *b = b'X')) as fn(&Path), 6, ["REGION_CORRUPT", "expected magic"]),
            ("flipped", |f| edit(f, 60, |b| *b ^= 0x10), 6, ["REGION_CORRUPT", "expected"]),
            ("newer", |f| edit(f, 8, |b| *b = 99), 3, ["FORMAT_INCOMPATIBLE", "found 99"]),
            (
                "cut",
                |f| std::fs::OpenOptions::new().write(true).open(f).unwrap().set_len(8192).unwrap(),
                6,
                ["REGION_CORRUPT", "found 8192"],
            ),
            ("short", |f| std::fs::write(f, b"HEIR").unwrap(), 6, ["REGION_CORRUPT", "found 4"]),
            ("empty", |f| std::fs::write(f, b"").unwrap(), 6, ["REGION_CORRUPT", "found 0"]),
            ("gone", |f| std::fs::remove_file(f).unwrap(), 2, ["IO", "No such file"]),
            (
                "directory",
                |f| {
                    std::fs::remove_file(f).unwrap();
                    std::fs::create_dir(f).unwrap()
                },
                2,
                ["usage", "is not a regular file"],
            ),
        ] {
            let _ = std::fs::remove_file(place.dir.path().join("shop"));
            let file = made(&place);
            damage(&file);
            for line in
                [format!("dump {} -o json", file.display()), format!("verify --file {} -o json", file.display())]
            {
                let ran = place.run(&line);
                assert_eq!(ran.code, code, "{what}: {ran:?}");
                assert_eq!(ran.says(&words).json()["exit_code"], code, "{what}");
            }
        }
    }

    /// Flips one bit after the other in the superblocks: found by both verbs, exit 6.
    #[test]
    fn a_flipped_superblock_is_a_fault() {
        let place = Place::new();
        let file = made(&place);
        let dump = place.run(&format!("dump {} -o json", file.display())).json();
        let segment =
            dump["header"]["segments"].as_array().unwrap().iter().find(|s| s["kind"] == "SUPERBLOCKS").unwrap().clone();
        let slot = dump["superblocks"].as_array().unwrap().iter().position(|s| s["state"] == "current").unwrap();
        let at = segment["offset_bytes"].as_u64().unwrap() as usize + 4096 * slot + 16;
        edit(&file, at, |b| *b ^= 1);
        let ran = place.run(&format!("verify --file {} -o json", file.display())).code(6);
        assert_eq!(ran.json()["outcome"], "corrupt");
        let ran = place.run(&format!("dump {} -o json", file.display())).code(6);
        assert_eq!(ran.json()["superblocks"][slot]["state"], "invalid");
    }
}
